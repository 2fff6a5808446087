#pragma once
// The definition, one thread an element or for all. Arguments as in longlora/kernels/optimizer.h, unchecked.
#include "longlora/kernels/optimizer.h"

namespace longlora::kernels::naive {

Launch sum_of_squares(const float* gradient, int64_t count, double* blocks, Stream);
Launch gradient_norm(double* blocks, int64_t num_blocks, double* norm, Stream);
Launch adamw(const Adamw&, int64_t count, float* master, float* grad, float* m, float* v, void* copy, ElementType copy_type, bool zero_grad,
             const UpdateControl* control, Stream);

}  // namespace longlora::kernels::naive
