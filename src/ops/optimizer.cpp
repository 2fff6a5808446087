#include "longlora/ops/optimizer.h"

#include "ops/dispatch.h"

namespace longlora {

void square_sums(const at::Tensor& gradient, at::Tensor blocks) {
  require_kernels(gradient, "gradient_norm");
  if constexpr (kWithKernels) device::square_sums(gradient, blocks);
}

void finish_norm(at::Tensor blocks, at::Tensor norm) {
  require_kernels(norm, "gradient_norm");
  if constexpr (kWithKernels) device::finish_norm(blocks, norm);
}

void control_update(const at::Tensor& norm, double max_norm, at::Tensor control) {
  require_kernels(norm, "clip_control");
  if constexpr (kWithKernels) device::control_update(norm, max_norm, control);
}

void adamw_update(const AdamwNumbers& numbers, at::Tensor master, at::Tensor gradient, at::Tensor m, at::Tensor v, at::Tensor weight,
                  const at::Tensor& control) {
  require_kernels(master, "adamw");
  if constexpr (kWithKernels) device::adamw_update(numbers, master, gradient, m, v, weight, control);
}

}  // namespace longlora
