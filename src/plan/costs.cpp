#include "plan/costs.h"

namespace longlora::plan {

LayerCosts layer_costs(const StepShape& step, const Rates& rates) {
  const LayerSeconds seconds(step, rates);
  LayerCosts costs;
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all})
    for (const bool streamed : {false, true})
      for (const bool offloaded : {false, true}) {
        const LayerPolicy policy(keep, streamed, offloaded);
        costs.at(policy) = seconds(policy) - seconds(KeepPolicy::save_all);
      }
  return costs;
}

}  // namespace longlora::plan
