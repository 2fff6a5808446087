#pragma once
// The definition, one thread a row. Arguments as in longlora/kernels/cross_entropy.h, unchecked.
#include "longlora/kernels/cross_entropy.h"

namespace longlora::kernels::naive {

Launch cross_entropy(const CrossEntropy&, ConstRows logits, const int32_t* labels, float* nll, Stream);
Launch cross_entropy_backward(const CrossEntropy&, Rows logits, const int32_t* labels, float scale, float* nll, ElementType d_type, Stream);
Launch add_nll(const float* nll, int64_t rows, double* sum, Stream);

}  // namespace longlora::kernels::naive
