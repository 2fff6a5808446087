// Loss, norm, clip factor and finite flag of a step, where the gradients are.
#include "optim/gate.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>

#include <cmath>

#include "longlora/core/error.h"
#include "longlora/ops/optimizer.h"

namespace longlora {
namespace {

bool on_device(const std::vector<Parameter*>& parameters) { return !parameters.empty() && !parameters.front()->grad.is_cpu(); }

at::TensorOptions doubles_beside(const std::vector<Parameter*>& parameters) {
  return parameters.front()->grad.options().dtype(at::kDouble);
}

at::Tensor new_control(const at::TensorOptions& beside) { return at::empty({8}, beside.dtype(at::kByte)); }

/// norm [1] of all gradients: every parameter starts a new block, as on the CPU.
void norm_on_device(const std::vector<Parameter*>& parameters, const at::Tensor& norm) {
  int64_t num_blocks = 0;
  for (const Parameter* p : parameters) num_blocks += norm_blocks(p->grad.numel());
  const at::Tensor blocks = at::empty({num_blocks}, norm.options());
  int64_t first = 0;
  for (const Parameter* p : parameters) {
    const int64_t count = norm_blocks(p->grad.numel());
    square_sums(p->grad, blocks.narrow(0, first, count));
    first += count;
  }
  finish_norm(blocks, norm);
}

}  // namespace

double device_norm(const std::vector<Parameter*>& parameters) {
  const at::Tensor norm = at::empty({1}, doubles_beside(parameters));
  norm_on_device(parameters, norm);
  return norm.item<double>();
}

UpdateGate gate_with(const std::vector<Parameter*>& parameters, double clip) {
  UpdateGate gate{.clip = clip};
  if (!on_device(parameters)) return gate;
  gate.control = new_control(doubles_beside(parameters));
  control_update(at::full({1}, 1.0 / clip, doubles_beside(parameters)), 1.0, gate.control);  // min(1, 1 / (1 / clip))
  return gate;
}

UpdateGate update_gate(const LossSum& loss, const std::vector<Parameter*>& parameters, double clip_norm) {
  if (!on_device(parameters)) {
    LossSum on_host = loss;
    settle(on_host);  // pending when nothing is trained on a device
    return gate_of(on_host.nll_sum, gradient_norm(parameters), parameters, clip_norm);
  }
  UpdateGate gate;
  gate.numbers = at::empty({2}, doubles_beside(parameters));
  at::Tensor nll = gate.numbers.narrow(0, 0, 1), norm = gate.numbers.narrow(0, 1, 1);
  nll.copy_(loss.pending);
  norm_on_device(parameters, norm);
  gate.control = new_control(gate.numbers.options());
  control_update(at::add(norm, at::mul(nll, 0.0)), clip_norm, gate.control);  // a loss that is no number makes the norm none
  return gate;
}

UpdateGate gate_of(double nll_sum, double norm, const std::vector<Parameter*>& parameters, double clip_norm) {
  UpdateGate gate{.nll_sum = nll_sum, .norm = norm, .clip = clip_factor(norm, clip_norm)};
  gate.finite = std::isfinite(nll_sum) && std::isfinite(norm);
  if (!on_device(parameters)) return gate;
  gate.control = new_control(doubles_beside(parameters));
  control_update(at::full({1}, norm + 0.0 * nll_sum, doubles_beside(parameters)), clip_norm, gate.control);
  return gate;
}

void read(UpdateGate& gate) {
  if (!gate.numbers.defined()) return;
  const at::Tensor numbers = gate.numbers.cpu();
  gate.nll_sum = numbers.const_data_ptr<double>()[0];
  gate.norm = numbers.const_data_ptr<double>()[1];
  gate.finite = std::isfinite(gate.nll_sum) && std::isfinite(gate.norm);
}

}  // namespace longlora
