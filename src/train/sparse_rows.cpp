#include "train/sparse_rows.h"

#include <ATen/ops/any.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include "longlora/core/error.h"

namespace longlora {
namespace {

at::Tensor elements(const at::Tensor& gradient, const RowWindow& w) { return gradient.view({-1}).narrow(0, w.begin, w.count); }

bool aligned(const RowWindow& w) { return w.begin % w.width == 0 && w.count % w.width == 0; }

at::Tensor padded(const at::Tensor& gradient, const RowWindow& w) {
  if (aligned(w)) return elements(gradient, w).view({w.num_rows(), w.width});
  at::Tensor rows = at::zeros({w.num_rows() * w.width}, gradient.options());
  rows.narrow(0, w.begin % w.width, w.count).copy_(elements(gradient, w));
  return rows.view({w.num_rows(), w.width});
}

}  // namespace

at::Tensor touched_rows(const at::Tensor& gradient, const RowWindow& w) {
  LONGLORA_INVARIANT(gradient.is_contiguous() && w.count > 0);
  const at::Tensor bits = padded(gradient, w).view(at::kInt);  // -0.0 is a value like any other
  const at::Tensor rows = at::nonzero(bits.ne(0).any(1)).view({-1}).to(at::kInt);
  const double sparse_bytes = static_cast<double>(rows.numel()) * (4.0 * static_cast<double>(w.width) + 4.0);
  return sparse_bytes <= 0.75 * 4.0 * static_cast<double>(w.count) ? rows : at::Tensor();
}

at::Tensor take_rows(const at::Tensor& gradient, const RowWindow& w, const at::Tensor& rows) {
  return padded(gradient, w).index_select(0, rows).contiguous();
}

void add_rows(const at::Tensor& gradient, const RowWindow& w, const at::Tensor& rows, const at::Tensor& values) {
  at::Tensor dense = at::zeros({w.num_rows(), w.width}, gradient.options());
  dense.index_copy_(0, rows.to(at::kLong), values);
  elements(gradient, w).add_(dense.view({-1}).narrow(0, w.begin % w.width, w.count));
}

}  // namespace longlora
