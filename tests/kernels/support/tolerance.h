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

}  // namespace longlora::testing
