#pragma once
// The definition, one thread an output. Arguments as in longlora/kernels/embedding.h, unchecked.
#include "longlora/kernels/embedding.h"

namespace longlora::kernels::naive {

Launch embedding_forward(ElementType, int64_t rows, int64_t width, const void* weight, const int32_t* ids, Rows x, Stream);
Launch embedding_backward(ElementType, int64_t num_unique, int64_t width, const int32_t* unique_ids, const int32_t* offsets,
                          const int32_t* positions, ConstRows d_x, float* d_weight, Stream);

}  // namespace longlora::kernels::naive
