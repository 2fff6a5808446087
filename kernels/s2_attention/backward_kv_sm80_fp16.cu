#include "s2_attention/variants.h"

namespace longlora::kernels {
template <>
Launch Sm80<device::fp16>::backward_kv(BackwardParams params, bool aligned, Stream stream) {
  const Pattern& a = params.pattern;
  return launch_tiles<BackwardKvSm80, device::fp16>(params, aligned, a.k_begin, a.k_end, int64_t{a.rows} * a.num_kv_heads, stream);
}
}  // namespace longlora::kernels
