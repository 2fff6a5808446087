#pragma once
// Root-mean-square norm (Zhang & Sennrich 2019), forward and backward. Statistics in fp32 for every dtype, recomputed in backward.
#include <ATen/core/Tensor.h>

#include "longlora/ops/buffer.h"

namespace longlora {

///   y[n] = w * x[n] / sqrt(mean(x[n]^2) + eps)
/// x_NC, y_NC   fp32|bf16, last stride 1, any row stride; y may alias x;  weight_C dtype of x
/// cost         one read, one write; threads over rows; bits independent of threads
void rms_norm_forward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, at::Tensor& y_NC);

///   d_x[n] += (w d_y[n] - xhat mean(w d_y[n] xhat)) / rms,   d_w += sum_n d_y[n] xhat[n],   xhat = x / rms
/// d_x_NC      added to (the residual branch is already there); with `Accumulate::no` overwritten, then it may alias d_y
/// d_weight_C  fp32, added to; undefined: the norm is frozen. Rows are summed in blocks of 64, blocks in order
void rms_norm_backward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, const at::Tensor& d_y_NC, at::Tensor& d_x_NC,
                       at::Tensor& d_weight_C, Accumulate = Accumulate::yes);

}  // namespace longlora
