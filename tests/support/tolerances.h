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

}  // namespace longlora
