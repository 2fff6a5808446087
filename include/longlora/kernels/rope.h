#pragma once
// Rotary position embedding (Su et al. 2021) on a GPU, half-split layout of Hugging Face. CPU: longlora/ops/rope.h.
//
//   y[i] = x[i] cos_i - x[i + D/2] sin_i,   y[i + D/2] = x[i + D/2] cos_i + x[i] sin_i       per row and head
//
// `backward` is the transposed rotation: sin_i with the other sign, the table's factor included.
// table      fp32 [positions, D]: D/2 cosines, then D/2 sines (RopeTable's memory)
// positions  int32 [rows], every one covered by the table: the caller has checked that
// Rows       strides in elements, the last one is 1; 16-byte accesses when bases and strides allow it and D is a multiple of 16
// Cost       one read and one write of x; the table comes from the caches
// Errors     a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

struct Rope {
  ElementType type = ElementType::bf16;
  int64_t rows = 0, num_heads = 0, head_size = 0;  // D even
  int64_t row_stride = 0, head_stride = 0;         // of x; heads do not overlap
  bool backward = false;
};

/// In place.
Launch rope(const Rope&, void* x, const float* table, const int32_t* positions, Stream);

/// Reads `from` with the strides of Rope, writes `to` with its own. `to` may be `from` when the strides are equal.
Launch rope_copy(const Rope&, const void* from, void* to, int64_t to_row_stride, int64_t to_head_stride, const float* table,
                 const int32_t* positions, Stream);

}  // namespace longlora::kernels
