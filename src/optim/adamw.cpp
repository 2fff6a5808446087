#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/BFloat16.h>

#include <cmath>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/ops/optimizer.h"
#include "longlora/ops/vector_math.h"
#include "longlora/optim/optimizer.h"
#include "optim/gate.h"

namespace longlora {
namespace {

using namespace vec;

/// Everything about one update of one parameter that is the same for all elements.
struct Update {
  float clip, beta1, beta2, keep;  // keep: 1 - rate * decay
  float step_size;                 // rate / (1 - beta1^t)
  float root_correction, eps;      // 1 / sqrt(1 - beta2^t)
};

/// The compute copy, where it is not the master itself.
struct NoCopy {
  void refresh(int64_t, F8, auto) const {}
};
struct Bf16Copy {
  c10::BFloat16* weight;
  void refresh(int64_t i, F8 value, auto lanes) const { store(weight + i, value, lanes); }
};

template <class Copy>
void update_range(const Update& u, float* master, const float* grad, float* m, float* v, int64_t begin, int64_t end, const Copy& copy) {
  for_lanes(end - begin, [&](int64_t offset, auto lanes) {
    const int64_t i = begin + offset;
    const F8 g = load(grad + i, lanes) * u.clip;
    const F8 m_new = load(m + i, lanes) * u.beta1 + g * (1.0f - u.beta1);
    const F8 v_new = load(v + i, lanes) * u.beta2 + g * g * (1.0f - u.beta2);
    const F8 p = load(master + i, lanes) * u.keep - u.step_size * m_new / (vec::sqrt(v_new) * u.root_correction + u.eps);
    store(m + i, m_new, lanes);
    store(v + i, v_new, lanes);
    store(master + i, p, lanes);
    copy.refresh(i, p, lanes);
  });
}

template <class Copy>
void update_all(const Update& u, Parameter& p, const Copy& copy) {
  float *master = p.master.data_ptr<float>(), *m = p.adam_m.data_ptr<float>(), *v = p.adam_v.data_ptr<float>();
  const float* grad = p.owned(p.grad).const_data_ptr<float>();
  at::parallel_for(0, p.master.numel(), 32768, [&](int64_t begin, int64_t end) { update_range(u, master, grad, m, v, begin, end, copy); });
}

double peak_of(const Parameter& p, const TrainConfig::Optimizer& o) {
  if (p.role == Role::embedding || p.role == Role::head) return o.embedding_learning_rate.value_or(o.learning_rate);
  if (p.role == Role::norm) return o.norm_learning_rate.value_or(o.learning_rate);
  return o.learning_rate;
}

Update update_of(const Parameter& p, const TrainConfig::Optimizer& o, int64_t applied_step, double rate_factor, double clip) {
  const double t = static_cast<double>(applied_step), rate = rate_factor * peak_of(p, o);
  const double decay = p.role == Role::norm ? 0.0 : o.weight_decay;
  return {.clip = static_cast<float>(clip),
          .beta1 = static_cast<float>(o.betas[0]),
          .beta2 = static_cast<float>(o.betas[1]),
          .keep = static_cast<float>(1.0 - rate * decay),
          .step_size = static_cast<float>(rate / (1.0 - std::pow(o.betas[0], t))),
          .root_correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(o.betas[1], t))),
          .eps = static_cast<float>(o.eps)};
}

void update_on_device(const Update& u, Parameter& p, const UpdateGate& gate) {
  const AdamwNumbers numbers{u.beta1, u.beta2, u.keep, u.step_size, u.root_correction, u.eps};
  adamw_update(numbers, p.master, p.owned(p.grad), p.adam_m, p.adam_v, p.owned(p.weight), gate.control);
}

}  // namespace

AdamW::AdamW(std::vector<Parameter*> parameters, const TrainConfig::Optimizer& options)
    : parameters_(std::move(parameters)), options_(options) {
  LONGLORA_INVARIANT(options_.betas.size() == 2);
  const MemoryTag tag(Component::optimizer_and_gradient);
  for (Parameter* p : parameters_) {
    LONGLORA_INVARIANT(p->master.defined() && p->grad.defined());
    if (!p->adam_m.defined()) p->adam_m = at::zeros_like(p->master);
    if (!p->adam_v.defined()) p->adam_v = at::zeros_like(p->master);
  }
}

void AdamW::step(int64_t applied_step, double rate_factor, double clip) { step(applied_step, rate_factor, gate_with(parameters_, clip)); }

void AdamW::step(int64_t applied_step, double rate_factor, const UpdateGate& gate) {
  const accelerator::Range range("optimizer");
  LONGLORA_INVARIANT(applied_step >= 1);
  if (!gate.finite) return;
  const double clip = gate.clip;
  for (Parameter* p : parameters_) {
    if (p->master.numel() == 0) continue;  // another rank's
    if (!p->master.is_cpu()) {
      update_on_device(update_of(*p, options_, applied_step, rate_factor, 1.0), *p, gate);
      continue;
    }
    const Update u = update_of(*p, options_, applied_step, rate_factor, clip);
    if (p->weight.scalar_type() == at::kBFloat16)
      update_all(u, *p, Bf16Copy{p->owned(p->weight).data_ptr<c10::BFloat16>()});
    else
      update_all(u, *p, NoCopy{});
  }
}

}  // namespace longlora
