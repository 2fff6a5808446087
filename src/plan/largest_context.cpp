#include <algorithm>

#include "plan/setup.h"

namespace longlora {
namespace {

using namespace plan;

constexpr int64_t kStep = 256, kMostTokens = int64_t{1} << 24;

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

int64_t plan::longest_that_fits(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target,
                                int64_t most_tokens) {
  // 4096-token steps where the group jumps between them
  const int64_t step = config.attention.group_preset == GroupPreset::longlora_sft && !config.attention.group_size ? 4096 : kStep;
  const auto at = [&](int64_t steps) { return with_length(config, run, steps * step); };
  const auto can_stream = [&](int64_t steps) {
    const RunPlan run_at = at(steps);
    return run_at.group / 2 >= kMaxRowTile && run_at.sequence_length > run_at.group / 2;
  };
  const bool must_stream = config.memory.halo_streaming == HaloStreaming::on;
  const auto fits = [&](int64_t steps) {
    return (!must_stream || can_stream(steps)) && need_of(model, config, at(steps), target).within(target);
  };
  // From half a group of a row tile on, tiles restart at every block, and from two blocks on layers can be streamed: bytes grow with length
  // only inside each of the three ranges.
  const int64_t steps = most_tokens / step;
  const int64_t small_tiles = last_that(1, steps, [&](int64_t s) { return at(s).group / 2 < kMaxRowTile; });
  const int64_t one_block = last_that(small_tiles + 1, steps, [&](int64_t s) { return !can_stream(s); });
  if (const int64_t longest = last_that(one_block + 1, steps, fits); longest > one_block) return longest * step;
  if (const int64_t longest = last_that(small_tiles + 1, one_block, fits); longest > small_tiles) return longest * step;
  return last_that(1, small_tiles, fits) * step;
}

int64_t largest_context(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  return longest_that_fits(model, config, run, target, kMostTokens);
}

}  // namespace longlora
