#pragma once
// What neighbouring ranks of one sequence say to each other in every layer (docs/distributed.md, "One sequence on several GPUs").
#include <cstdint>

#include "longlora/config/sequence_parts.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora {

/// KV heads whose keys and values the query heads of a halo read, each once, also where plain and shifted heads share one. Empty for none.
inline HeadRange halo_kv_heads(HaloHeads halo, int64_t num_heads, int64_t num_kv_heads, int64_t num_plain) {
  if (halo == HaloHeads::none) return {0, 0};
  return kv_heads_of(halo == HaloHeads::plain ? Shift::none : Shift::half_group, num_heads, num_kv_heads, num_plain);
}

/// One message: K and V, or dK and dV, of a half-group. Forward in the compute type, once more for backward; back in fp32.
inline int64_t halo_bytes(int64_t rows, int64_t half_group, HeadRange kv_heads, int64_t head_dim, int64_t element_bytes) {
  return 2 * rows * half_group * (kv_heads.end - kv_heads.begin) * head_dim * element_bytes;
}

}  // namespace longlora
