#pragma once
// Rows of matrices by number.
#include <ATen/core/Tensor.h>

#include "longlora/ops/host_list.h"

namespace longlora {

/// to[i] = from[rows[i]]. Same dtype, last stride 1, no overlap.
void gather_rows(const at::Tensor& from_MC, const RowList& rows, at::Tensor& to_NC);
/// to[rows[i]] = from[i]; no row twice.
void scatter_rows(const at::Tensor& from_NC, const RowList& rows, at::Tensor& to_MC);
/// to[rows[i]] = 0
void zero_rows(at::Tensor& to_MC, const RowList& rows);

}  // namespace longlora
