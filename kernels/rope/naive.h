#pragma once
// The definition, one thread a head. Arguments as in longlora/kernels/rope.h, unchecked.
#include "longlora/kernels/rope.h"

namespace longlora::kernels::naive {

Launch rope_copy(const Rope&, const void* from, void* to, int64_t to_row_stride, int64_t to_head_stride, const float* table,
                 const int32_t* positions, Stream);

}  // namespace longlora::kernels::naive
