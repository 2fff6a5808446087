#include "plan/costs.h"

namespace longlora::plan {

LayerCosts layer_costs(const StepShape& step, const Rates& rates) {
  const LayerSeconds seconds(step, rates);
  const LayerPolicy plain = KeepPolicy::checkpoint;
  LayerCosts costs;
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all})
    costs.keep[static_cast<size_t>(keep)] = seconds(keep) - seconds(KeepPolicy::save_all);
  costs.streamed = seconds({plain.keep, true}) - seconds(plain);
  costs.offloaded = seconds({plain.keep, false, true}) - seconds(plain);
  return costs;
}

}  // namespace longlora::plan
