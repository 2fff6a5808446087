#pragma once
// The only home of the kernel tests' tolerances: computed from the type and the length of the sums.
#include <cmath>
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::testing {

/// Largest relative error of rounding a number to nearest.
constexpr double rounding_unit(kernels::ElementType type) {
  switch (type) {
    case kernels::ElementType::fp32:
      return 0x1p-24;
    case kernels::ElementType::bf16:
      return 0x1p-8;
    case kernels::ElementType::fp16:
      return 0x1p-11;
  }
  return 0;
}

/// Relative error that rounding alone may cause in a sum of `length` terms: errors of one rounding unit that add up like a random walk,
/// with a factor of 4 for the tail.
inline double near(kernels::ElementType type, int64_t length) { return 4 * rounding_unit(type) * std::sqrt(static_cast<double>(length)); }

/// An output that is rounded once to `type`, after fp32 sums of `length` terms.
inline double rounded_once(kernels::ElementType type, int64_t length) { return near(type, 1) + near(kernels::ElementType::fp32, length); }

/// Half of the smallest number above zero: what rounding may lose absolutely.
constexpr double underflow(kernels::ElementType type) { return type == kernels::ElementType::fp16 ? 0x1p-25 : 0x1p-134; }

/// Attention (docs/attention.md, section 10): F = |x - ref|_2 / |ref|_2 and M = max |x - ref| / rms(ref), measured by a scalar emulation of
/// the algorithm with a factor of about 2 to spare. fp16 rounds 8 times finer than bf16, of which 2 are kept.
struct Tolerance {
  double relative_norm, largest;
};
enum class AttentionOutput { o, d_v, d_q_or_k };
constexpr Tolerance attention_tolerance(kernels::ElementType type, AttentionOutput output) {
  if (type == kernels::ElementType::fp32) {
    if (output == AttentionOutput::o) return {5e-6, 1e-4};
    return output == AttentionOutput::d_v ? Tolerance{1e-5, 1e-4} : Tolerance{1e-5, 2e-4};
  }
  const double finer = type == kernels::ElementType::fp16 ? 4 : 1;
  if (output == AttentionOutput::o) return {4e-3 / finer, 0.1 / finer};
  return output == AttentionOutput::d_v ? Tolerance{4e-3 / finer, 0.2 / finer} : Tolerance{1e-2 / finer, 0.2 / finer};
}
inline constexpr double kLseTolerance = 1e-4;

}  // namespace longlora::testing
