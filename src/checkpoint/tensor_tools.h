#pragma once
// Between bytes in files and tensors in memory: dtypes, finite values, compute copies.
#include <ATen/core/Tensor.h>

#include <optional>
#include <span>

#include "longlora/checkpoint/tensor_bytes.h"
#include "longlora/core/dtype.h"
#include "longlora/model/parameter.h"

namespace longlora {

at::ScalarType scalar_type(DType);
DType dtype_of(const at::Tensor&);

/// The memory of a contiguous CPU tensor.
std::span<std::byte> bytes_of(const at::Tensor&);

/// Flat index of the first element that is NaN or infinite.
std::optional<int64_t> first_non_finite(const at::Tensor&);

/// Compute-dtype copy of a trainable parameter, of the elements that its master holds; nothing to do where both are one storage.
void refresh_weight(Parameter&);

}  // namespace longlora
