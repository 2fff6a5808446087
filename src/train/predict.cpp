#include <fmt/format.h>

#include "longlora/plan/plan_report.h"
#include "longlora/train/prepare.h"
#include "longlora/train/rates.h"

namespace longlora {

Rates rates_of_run(const ComputeDevice& device, double product_rate) {
  Rates rates = default_rates(device.is_gpu() ? DeviceKind::cuda : DeviceKind::cpu);
  if (product_rate <= 0) return rates;
  rates.attention *= product_rate / rates.products;
  rates.products = rates.peak = product_rate;
  rates.source = fmt::format("products {:.3g} TFLOP/s measured at the start, the rest {}", product_rate / 1e12, rates.source);
  return rates;
}

PlanReport report_of(const PreparedRun& run, const Rates& rates) {
  const PlanTarget target{run.device.is_gpu() ? PlanTarget::Device::gpu : PlanTarget::Device::cpu,
                          run.compute == ComputeType::bf16 ? int64_t{2} : int64_t{4}, run.memory.budget_bytes};
  return report_plan(run.base->config, run.config(), run.plan, target, run.memory, rates);
}

}  // namespace longlora
