#pragma once
// The definition, one thread a row: what the fast kernels are compared with. Arguments as in longlora/kernels/rms_norm.h, unchecked.
#include "longlora/kernels/rms_norm.h"

namespace longlora::kernels::naive {

Launch rms_norm_forward(const RmsNorm&, ConstRows x, const void* weight, Rows y, Stream);
Launch rms_norm_residual_forward(const RmsNorm&, ConstRows x, ConstRows branch, const void* weight, Rows sum, Rows y, Stream);
Launch rms_norm_backward(const RmsNorm&, ConstRows x, const void* weight, ConstRows d_y, Rows d_x, bool add_to_d_x, float* d_weight,
                         void* workspace, Stream);

}  // namespace longlora::kernels::naive
