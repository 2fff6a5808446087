#include <algorithm>
#include <cmath>
#include <numbers>

#include "longlora/core/error.h"
#include "longlora/optim/optimizer.h"

namespace longlora {
namespace {

/// Share of the way from the end of warm-up (0) to the last step (1).
double decay_progress(int64_t warmup, int64_t step, int64_t total_steps) {
  const int64_t last = total_steps - 1;
  if (step >= last) return 1.0;
  return static_cast<double>(step - warmup) / static_cast<double>(last - warmup);
}

double decayed(ScheduleKind kind, double floor, double progress) {
  switch (kind) {
    case ScheduleKind::constant_with_warmup:
      return 1.0;
    case ScheduleKind::linear:
      return floor + (1.0 - floor) * (1.0 - progress);
    case ScheduleKind::cosine:
      return progress >= 1.0 ? floor : floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
  return 1.0;
}

}  // namespace

double learning_rate_at(const TrainConfig::Schedule& schedule, double peak, int64_t step, int64_t total_steps) {
  LONGLORA_INVARIANT(step >= 0 && total_steps > 0 && schedule.warmup_steps >= 0);
  const int64_t warmup = schedule.warmup_steps;
  // (step + 1) / (warmup + 1): not zero at step 0, the peak at step `warmup`
  if (step <= warmup && step < total_steps) {
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
    return peak;
  }
  return peak * decayed(schedule.kind, schedule.floor, decay_progress(warmup, step, total_steps));
}

}  // namespace longlora
