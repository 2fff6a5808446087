#pragma once
// The only home of test tolerances: computed from the type and the length of the sums, or measured and listed with their origin.

#include <cmath>
#include <cstdint>

#include "longlora/core/dtype.h"

namespace longlora {

/// Relative error that rounding alone may cause in a sum of `length` terms: errors of one rounding unit that add up like a random
/// walk, with a factor of 4 for the tail.
inline double near(DType dtype, int64_t length) {
  return 4 * rounding_unit(dtype) * std::sqrt(static_cast<double>(length));
}

/// Relative difference of a rotary frequency from one computed in fp32: the exponent 2i/d is rounded to fp32 and multiplied by
/// ln(theta); exact when d is a power of two. Six units for the power, the division and the cancellation in llama3's blend, where
/// 4.7 was the largest difference from transformers 5.24 (tests/hf/make_rope_golden.py).
inline double rope_frequency_error(double theta, int64_t head_dim) {
  const bool is_exact = (head_dim & (head_dim - 1)) == 0;
  return rounding_unit(DType::f32) * (6 + (is_exact ? 0 : std::log(theta)));
}

}  // namespace longlora
