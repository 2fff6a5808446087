#include <unistd.h>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/train/observers.h"
#include "longlora/train/run_status.h"

namespace longlora {
namespace {

constexpr int kFailuresAllowed = 2;

/// Other programs wait for this line: it is printed only when the checkpoint is durable.
void announce(int64_t step, const std::filesystem::path& path) {
  const std::string line = "saved step " + std::to_string(step) + " " + path.string() + "\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDOUT_FILENO, line.data(), line.size());
}

}  // namespace

CheckpointObserver::CheckpointObserver(CheckpointFolder& folder, LlamaModel& model, int64_t every, int64_t keep,
                                       std::function<TrainState()> state, int64_t saved_step)
    : folder_(folder), model_(model), every_(every), keep_(keep), state_(std::move(state)), saved_step_(saved_step) {}

void CheckpointObserver::save() {
  const TrainState state = state_();
  const std::filesystem::path path = save_train_state(folder_, model_, state);
  saved_step_ = state.step;
  failures_in_a_row_ = 0;
  run_status().checkpoint = path.string();
  log_debug("checkpoint {}", path.string());
  announce(state.step, path);
  folder_.rotate(keep_);
}

void CheckpointObserver::after_step(const StepReport& report) {
  run_status().step = report.step;
  if (every_ <= 0 || report.outcome == Outcome::skipped || report.step % every_ != 0) return;
  try {
    save();
  } catch (const Error& error) {
    if (error.kind != ErrorKind::io || ++failures_in_a_row_ > kFailuresAllowed) throw;
    log_warning("step {} is not saved, next try in {} steps: {}", report.step, every_, error.what());
  }
}

void CheckpointObserver::after_last_step() {
  if (state_().step != saved_step_) save();
}

}  // namespace longlora
