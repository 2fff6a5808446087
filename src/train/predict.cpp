#include <fmt/format.h>

#include "longlora/plan/plan_report.h"
#include "longlora/train/prepare.h"
#include "longlora/train/rates.h"

namespace longlora {

Rates rates_of_run(const ComputeDevice& device, ComputeType compute, double product_rate) {
  Rates rates = default_rates(device.is_gpu() ? DeviceKind::cuda : DeviceKind::cpu, compute);
  if (product_rate <= 0) return rates;
  const double printed = device.is_gpu() && compute == ComputeType::bf16 ? printed_peak(device.name) : 0;
  rates.attention *= product_rate / rates.products;
  rates.products = product_rate;
  rates.peak = printed > 0 ? printed : product_rate;
  rates.peak_kind = printed > 0 ? PeakKind::printed : PeakKind::measured;
  rates.source = fmt::format("products {:.3g} TFLOP/s measured at the start, the rest {}", product_rate / 1e12, rates.source);
  return rates;
}

PlanReport report_of(const PreparedRun& run, const Rates& rates) {
  const PlanTarget target{run.device.is_gpu() ? PlanTarget::Device::gpu : PlanTarget::Device::cpu,
                          run.compute == ComputeType::bf16 ? int64_t{2} : int64_t{4}, run.memory.budget_bytes};
  return report_plan(run.base->config, run.config(), run.plan, target, run.memory, rates);
}

}  // namespace longlora
