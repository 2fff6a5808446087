#pragma once
// Between bytes in files and tensors in memory: dtypes, digests of tensors, compute copies.
#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "longlora/core/dtype.h"
#include "longlora/core/hash.h"
#include "longlora/model/parameter.h"

namespace longlora {

at::ScalarType scalar_type(DType);
DType dtype_of(const at::Tensor&);

/// The tensor on the host and without gaps: itself where it is both, otherwise a copy.
at::Tensor on_host(const at::Tensor&);

/// The memory of a contiguous CPU tensor.
std::span<std::byte> bytes_of(const at::Tensor&);

/// State lanes over the tensor's bytes as 32-bit words (an odd last half word is padded with zero); threads share the work.
/// `first_word`: place of the tensor's first word in what it is a part of.
StateLanes lanes_of(const at::Tensor&, uint64_t first_word = 0);
/// Of several tensors on one device; a GPU computes them itself, and is waited for once.
std::vector<StateLanes> lanes_of(const std::vector<at::Tensor>&, const std::vector<uint64_t>& first_words);

/// Flat index of the first element that is NaN or infinite.
std::optional<int64_t> first_non_finite(const at::Tensor&);

/// Compute-dtype copy of a trainable parameter, of the elements that its master holds; nothing to do where both are one storage.
void refresh_weight(Parameter&);

}  // namespace longlora
