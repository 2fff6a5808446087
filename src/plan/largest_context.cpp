#include <algorithm>

#include "plan/setup.h"

namespace longlora {
namespace {

using namespace plan;

constexpr int64_t kStep = 256, kMostSteps = (int64_t{1} << 24) / kStep;

/// The largest of first .. last for which `holds`, which is true up to some number and false after it; first - 1: for none.
template <class Holds>
int64_t last_that(int64_t first, int64_t last, Holds&& holds) {
  int64_t low = first - 1, high = last;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (holds(middle))
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace

int64_t largest_context(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  // 4096-token steps where the group jumps between them
  const int64_t step = config.attention.group_preset == GroupPreset::longlora_sft && !config.attention.group_size ? 4096 : kStep;
  const auto at = [&](int64_t steps) { return with_length(config, run, steps * step); };
  TrainConfig allowed = config;  // memory.halo_streaming: on cannot be at every length
  const auto fits = [&](int64_t steps) {
    const RunPlan longer = at(steps);
    const bool can_stream = longer.group / 2 >= kMaxRowTile && longer.sequence_length > longer.group / 2;
    if (config.memory.halo_streaming == HaloStreaming::on)
      allowed.memory.halo_streaming = can_stream ? HaloStreaming::on : HaloStreaming::off;
    return need_of(model, allowed, longer, target).within(target);
  };
  // from half a group of a row tile on tiles restart at every block and layers can be streamed: peaks grow with length on either side only
  const int64_t steps = kMostSteps * kStep / step;
  const int64_t border = last_that(1, steps, [&](int64_t s) { return at(s).group / 2 < kMaxRowTile; });
  const int64_t longest = last_that(border + 1, steps, fits);
  if (longest > border) return longest * step;
  return last_that(1, border, fits) * step;
}

}  // namespace longlora
