#pragma once
// An embedding's gradient as the rows that some token touched. Absent rows are +0.0 and are added like any other value.
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace longlora {

/// Elements [begin, begin + count) of a [V, D] gradient; rows are whole rows of D, cut ones are padded with zeros.
struct RowWindow {
  int64_t begin, count, width;
  int64_t first_row() const { return begin / width; }
  int64_t num_rows() const { return (begin + count + width - 1) / width - first_row(); }
};

/// Rows (from the window's first) with a bit set, int32 [n] ascending; undefined when sending them costs more than 3/4 of the dense window:
/// n (4 D + 4) > 0.75 x 4 count.
at::Tensor touched_rows(const at::Tensor& gradient, const RowWindow&);
/// values fp32 [n, D] of the rows.
at::Tensor take_rows(const at::Tensor& gradient, const RowWindow&, const at::Tensor& rows);
/// gradient += the rows, and += 0.0 everywhere else in the window.
void add_rows(const at::Tensor& gradient, const RowWindow&, const at::Tensor& rows, const at::Tensor& values);

}  // namespace longlora
