#pragma once
// The only home of test tolerances: computed from the type and the length of the sums, or measured and listed with their origin.

#include <cmath>
#include <cstdint>

#include "longlora/core/dtype.h"

namespace longlora {

/// Relative error that rounding alone may cause in a sum of `length` terms: errors of one rounding unit that add up like a random
/// walk, with a factor of 4 for the tail.
inline double near(DType dtype, int64_t length) { return 4 * rounding_unit(dtype) * std::sqrt(static_cast<double>(length)); }

/// Relative difference of a rotary frequency from one computed in fp32: the exponent 2i/d is rounded to fp32 and multiplied by
/// ln(theta); exact when d is a power of two. Six units for the power, the division and the cancellation in llama3's blend, where
/// 4.7 was the largest difference from transformers 5.24 (tests/hf/make_rope_golden.py).
inline double rope_frequency_error(double theta, int64_t head_dim) {
  const bool is_exact = (head_dim & (head_dim - 1)) == 0;
  return rounding_unit(DType::f32) * (6 + (is_exact ? 0 : std::log(theta)));
}

/// fp32 gradient against central differences of an fp64 objective with step 1e-6: rounding of a few hundred fp32 terms, relative to the
/// largest gradient element.
inline double finite_difference_error() { return 2e-5; }

/// Bounds of the attention operator against the fp64 oracle on the same rounded inputs (docs/attention.md section 10): relative
/// Frobenius error F and largest error over the root mean square of the reference M, measured by scalar emulation of the kernels.
struct AttentionBound {
  double frobenius, largest;
};
struct AttentionBounds {
  AttentionBound o, d_v, d_q, d_k;
  double lse;  // absolute
};
inline AttentionBounds attention_bounds(DType dtype) {
  if (dtype == DType::f32) return {{5e-6, 1e-4}, {1e-5, 1e-4}, {1e-5, 2e-4}, {1e-5, 2e-4}, 1e-4};
  return {{4e-3, 0.1}, {4e-3, 0.2}, {1e-2, 0.2}, {1e-2, 0.2}, 1e-4};
}

/// fp32 gradients and logits of a whole tiny model, relative to the largest element of the tensor: the bound promised against other
/// implementations is 1e-4; measured here 3e-6.
inline double model_gradient_error() { return 2e-5; }

/// fp32 losses and gradients of one sequence on several ranks against one rank, relative to the norm of the tensor: other heights of
/// products and partial sums, the bound promised (measured 1.4e-6).
inline double sequence_parallel_error() { return 1e-5; }

/// Losses, gradients and logits of a tiny model with the GPU's kernels against the CPU's code, relative to the largest element. fp32: other
/// orders of sums, the bound promised against other implementations (measured 2.8e-5). bf16: both round to 8 bits at the same places but
/// logits and gradient products, which stay in fp32 on a device.
inline double device_model_error(DType dtype) { return dtype == DType::bf16 ? 0.05 : 1e-4; }

}  // namespace longlora
