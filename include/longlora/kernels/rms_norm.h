#pragma once
// Root-mean-square norm (Zhang & Sennrich 2019) on a GPU, with the residual stream's additions fused in. CPU: longlora/ops/rms_norm.h.
//
//   y[n] = w * (x[n] * rstd[n]),   rstd[n] = 1 / sqrt(mean(x[n]^2) + eps)
//
// Rows     any row stride >= width, any alignment of the element; 16-byte accesses when bases, strides and width are multiples of it
// Maths    fp32, one rounding at the end; rstd is computed again in backward, nothing is saved
// Bits     sums have an order that depends on rows and width only; no atomics
// Cost     (2 bytes a value, per row) forward 4 w, with the residual 8 w, backward 6 w, 8 w when it adds: bound by memory
// Errors   a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

struct RmsNorm {
  ElementType type = ElementType::bf16;  // of x, weight, y and their gradients
  int64_t rows = 0, width = 0;
  float eps = 0;
};

/// weight [width]. y may be x.
Launch rms_norm_forward(const RmsNorm&, ConstRows x, const void* weight, Rows y, Stream);

/// sum = round(x + branch), y = norm(sum) of the rounded sum. sum may be x or branch; y may be x or branch, and not sum.
Launch rms_norm_residual_forward(const RmsNorm&, ConstRows x, ConstRows branch, const void* weight, Rows sum, Rows y, Stream);

/// For a trainable weight; a frozen one needs none.
int64_t rms_norm_backward_workspace_bytes(const RmsNorm&);

///   d_x[n] = [d_x[n] +] (w d_y[n] - xhat mean(w d_y[n] xhat)) rstd[n],   d_weight += sum_n d_y[n] xhat[n],   xhat = x rstd
/// d_x        added to when `add_to_d_x` (the residual branch's gradient is already there); otherwise it may be d_y or x
/// d_weight   fp32 [width], added to; null: the norm is frozen and `workspace` is not used
/// workspace  16-byte aligned; need not be initialised
Launch rms_norm_backward(const RmsNorm&, ConstRows x, const void* weight, ConstRows d_y, Rows d_x, bool add_to_d_x, float* d_weight,
                         void* workspace, Stream);

}  // namespace longlora::kernels
