#pragma once
// Awkward sizes of rows, shared by the kernels that treat them one element at a time.
#include <string>
#include <vector>

#include "kernels/support/matrix.h"
#include "kernels/support/sweep.h"

namespace longlora::testing {

struct RowsCase {
  int64_t rows, width, gap, offset;  // elements behind every row, before the first one
};

/// One element, primes, one off a vector, one off a block; gaps and offsets that forbid 16-byte accesses and such that allow them.
inline std::vector<RowsCase> rows_cases() {
  std::vector<RowsCase> c = {{1, 1, 0, 0}, {3, 7, 2, 1}, {5, 64, 64, 0}, {17, 129, 7, 0}, {2, 1024, 0, 0}};
  if (sweep() == Sweep::sample) return c;
  const std::vector<RowsCase> more = {{1, 2, 0, 0},    {300, 1, 0, 0},   {65, 8, 0, 0},   {33, 9, 7, 0},   {4, 127, 0, 1},
                                      {9, 576, 64, 8}, {2, 1000, 24, 0}, {3, 1025, 0, 0}, {3, 1032, 8, 0}, {2, 2056, 0, 0}};
  c.insert(c.end(), more.begin(), more.end());
  if (sweep() == Sweep::small) return c;
  const std::vector<RowsCase> large = {{2, 4096, 64, 0}, {1, 4099, 5, 0},  {2, 5003, 5, 0}, {1, 8192, 0, 0},
                                       {1, 8200, 0, 0},  {1, 11008, 0, 0}, {1, 11008, 0, 3}};
  c.insert(c.end(), large.begin(), large.end());
  if (sweep() == Sweep::full)
    for (int64_t width = 1; width < 600; width += 13) c.push_back({19, width, width % 9, width % 5});
  return c;
}

inline std::string what(const std::string& name, ElementType type, const RowsCase& c) {
  return name + " " + name_of(type) + " [" + std::to_string(c.rows) + ", " + std::to_string(c.width) + "] gap " + std::to_string(c.gap) +
         " offset " + std::to_string(c.offset);
}

/// f(type, case)
template <class F>
void for_all_rows_cases(F f) {
  for (const ElementType type : kTypes)
    for (const RowsCase& c : rows_cases()) f(type, c);
}

}  // namespace longlora::testing
