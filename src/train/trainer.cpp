#include "longlora/train/trainer.h"

#include <ATen/ops/isfinite.h>

#include <cmath>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "train/together.h"

namespace longlora {
namespace {

constexpr int64_t kSkipsAllowed = 3, kSkipWindowSteps = 100;

/// Step numbers (from 0) at which ranges were skipped: global batch k of the run was tried at step k minus the skips before it.
int64_t recent_skips(const Cursor& cursor, uint64_t rows_per_step, int64_t step) {
  int64_t recent = 0, before = 0;
  for (const auto& [begin, end] : cursor.skipped) {
    const int64_t at_step = static_cast<int64_t>(begin / rows_per_step) - before++;
    if (at_step > step - kSkipWindowSteps) ++recent;
  }
  return recent;
}

/// Among what this rank holds; where state is sharded that is a part of each.
std::string first_bad_tensor(const std::vector<Parameter*>& trainable) {
  for (const Parameter* p : trainable) {
    if (p->grad.defined() && !at::isfinite(p->owned(p->grad)).all().item<bool>()) return p->name + ".grad";
    if (!at::isfinite(p->master).all().item<bool>()) return p->name;
  }
  return "loss";
}

std::string nonfinite_name(int64_t step, int rank) {
  return "nonfinite-" + std::to_string(step) + (rank == 0 ? "" : "-rank_" + std::to_string(rank)) + ".json";
}

}  // namespace

Trainer::Trainer(Parts parts, Progress start)
    : model_(parts.model),
      loader_(parts.loader),
      optimizer_(parts.optimizer),
      reducer_(parts.reducer),
      all_(parts.all),
      sequence_(parts.sequence),
      coupled_(parts.coupled || parts.sequence != nullptr),
      config_(parts.config),
      plan_(parts.plan),
      log_folder_(std::move(parts.log_folder)),
      progress_(std::move(start)),
      trainable_(model_.trainable()),
      tree_(trainable_),
      keep_less_(std::move(parts.keep_less)),
      memory_(parts.memory) {}

void Trainer::write_nonfinite(const StepReport& report) const {
  if (log_folder_.empty()) return;
  const int rank = reducer_.ranks().rank();
  std::string losses;
  for (double loss : last_losses_) losses += (losses.empty() ? "" : ", ") + json_number(loss);
  const std::string text = "{\"rank\": " + std::to_string(rank) + ", \"step\": " + std::to_string(report.step) +
                           ", \"loss\": " + json_number(report.loss) + ", \"grad_norm\": " + json_number(report.grad_norm) +
                           ", \"tensor\": " + json_quote(first_bad_tensor(trainable_)) + ", \"rows\": [" +
                           std::to_string(report.first_row) + ", " + std::to_string(report.first_row + report.rows) +
                           "], \"learning_rate\": " + json_number(report.learning_rate) + ", \"last_losses\": [" + losses + "]}\n";
  try {
    write_file_atomic(log_folder_ / nonfinite_name(report.step, rank), text);
  } catch (const Error& error) {
    log_warning("{}", error.what());  // a log never decides how a run ends
  }
}

void Trainer::skip_or_stop(const StepReport& report) {
  write_nonfinite(report);
  const std::string where =
      "rank " + std::to_string(reducer_.ranks().rank()) + " step " + std::to_string(report.step) + ", " + first_bad_tensor(trainable_);
  const std::string what =
      "loss " + json_number(report.loss) + ", gradient norm " + json_number(report.grad_norm) + "; expected finite numbers";
  LONGLORA_CHECK(config_.nonfinite_action == NonFiniteAction::skip, numeric, what, where,
                 "lower optimizer.learning_rate, or set nonfinite.action to skip; nothing was changed by this step");
  const int64_t recent = recent_skips(progress_.cursor, report.rows, progress_.step);
  LONGLORA_CHECK(recent < kSkipsAllowed, numeric, what + " (" + std::to_string(recent) + " steps skipped already in the last 100)", where,
                 "lower optimizer.learning_rate or look at the rows in logs/nonfinite-" + std::to_string(report.step) + ".json");
  log_warning("step {}: {} ({}): rows {} to {} are skipped", report.step, what, where, report.first_row,
              report.first_row + report.rows - 1);
}

LossSum Trainer::accumulate_gradients() {
  StepReport report{.step = progress_.step + 1, .first_row = progress_.cursor.next_row, .rows = static_cast<uint64_t>(plan_.global_batch)};
  const std::vector<TokenBatch> shards = rows_of_step(report);
  UpdateGate gate = reducer_.reduce(tree_, accumulate(shards, report.targets), 0);
  read(gate);
  reducer_.gather_gradients();
  return {.nll_sum = gate.nll_sum, .targets = report.targets};
}

bool Trainer::run(const std::vector<Observer*>& observers, const std::function<bool()>& stop_requested) {
  if (!done()) {
    for (Observer* o : observers) o->before_first_step();
  }
  while (!done() && !any_rank(all_, stop_requested())) {
    const StepReport report = step();
    for (Observer* o : observers) o->after_step(report);
  }
  model_.release();  // evaluation, checkpoint and export need memory of their own
  for (Observer* o : observers) o->after_last_step();
  return done();
}

}  // namespace longlora
