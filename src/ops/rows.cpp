#include "longlora/ops/rows.h"

#include <ATen/Parallel.h>

#include <cstring>

#include "ops/dispatch.h"

namespace longlora {
namespace {

/// One copy a row: to_row(i) <- from_row(i)
template <class ToRow, class FromRow>
void copy_rows(const at::Tensor& from, at::Tensor& to, int64_t count, ToRow to_row, FromRow from_row) {
  const size_t element = from.element_size(), bytes = static_cast<size_t>(from.size(1)) * element;
  const char* source = static_cast<const char*>(from.const_data_ptr());
  char* target = static_cast<char*>(to.data_ptr());
  const int64_t from_bytes = from.stride(0) * static_cast<int64_t>(element), to_bytes = to.stride(0) * static_cast<int64_t>(element);
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(target + to_row(i) * to_bytes, source + from_row(i) * from_bytes, bytes);
  });
}

}  // namespace

void gather_rows(const at::Tensor& from_MC, const RowList& rows, at::Tensor& to_NC) {
  if constexpr (kWithKernels) {
    if (!to_NC.is_cpu()) return device::gather_rows(from_MC, rows, to_NC);
  }
  require_host(to_NC, "gather_rows");
  copy_rows(
      from_MC, to_NC, rows.size(), [](int64_t i) { return i; }, [&](int64_t i) { return rows.host()[static_cast<size_t>(i)]; });
}

void scatter_rows(const at::Tensor& from_NC, const RowList& rows, at::Tensor& to_MC) {
  if constexpr (kWithKernels) {
    if (!to_MC.is_cpu()) return device::scatter_rows(from_NC, rows, to_MC);
  }
  require_host(to_MC, "scatter_rows");
  copy_rows(
      from_NC, to_MC, rows.size(), [&](int64_t i) { return rows.host()[static_cast<size_t>(i)]; }, [](int64_t i) { return i; });
}

void zero_rows(at::Tensor& to_MC, const RowList& rows) {
  if (rows.size() == 0) return;
  if (!to_MC.is_cpu()) {
    to_MC.index_fill_(0, rows.on(to_MC.device()), 0);  // one launch
    return;
  }
  for (const int64_t row : rows.host()) to_MC.select(0, row).zero_();
}

}  // namespace longlora
