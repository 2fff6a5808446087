#include "longlora/ops/state_lanes.h"

#include "ops/dispatch.h"

namespace longlora {

std::vector<StateLanes> device_state_lanes(const std::vector<at::Tensor>& tensors, const std::vector<uint64_t>& first_words) {
  if (tensors.empty()) return {};
  require_kernels(tensors.front(), "state_lanes");
  if constexpr (kWithKernels) return device::state_lanes(tensors, first_words);
  return {};
}

}  // namespace longlora
