#pragma once
// The state digest's lanes of tensors on a device, computed there: the host reads a few sums in place of the tensors.
#include <ATen/core/Tensor.h>

#include <vector>

#include "longlora/core/hash.h"

namespace longlora {

/// Lanes over the bytes of each tensor as 32-bit words. All on one device, without gaps, of a size that is a multiple of 4 bytes. Waits for
/// the device once. first_words: place of each tensor's first word in what it is a part of.
std::vector<StateLanes> device_state_lanes(const std::vector<at::Tensor>&, const std::vector<uint64_t>& first_words);

}  // namespace longlora
