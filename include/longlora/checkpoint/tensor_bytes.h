#pragma once
// Tensors as bytes in host memory, and the state digest's lanes over them.
#include <ATen/core/Tensor.h>

#include <vector>

#include "longlora/core/hash.h"

namespace longlora {

/// The tensor on the host and without gaps: itself where it is both, otherwise a copy.
at::Tensor on_host(const at::Tensor&);

/// State lanes over the tensor's bytes as 32-bit words (an odd last half word is padded with zero); threads share the work.
/// `first_word`: place of the tensor's first word in what it is a part of.
StateLanes lanes_of(const at::Tensor&, uint64_t first_word = 0);
/// Of several tensors on one device; a GPU computes them itself, and is waited for once.
std::vector<StateLanes> lanes_of(const std::vector<at::Tensor>&, const std::vector<uint64_t>& first_words);

}  // namespace longlora
