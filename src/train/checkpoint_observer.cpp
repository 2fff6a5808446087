#include <unistd.h>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/train/observers.h"
#include "longlora/train/run_status.h"
#include "train/together.h"

namespace longlora {
namespace {

constexpr int kFailuresAllowed = 2;

/// Other programs wait for this line: it is printed only when the checkpoint is durable.
void announce(int64_t step, const std::filesystem::path& path) {
  const std::string line = "saved step " + std::to_string(step) + " " + path.string() + "\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDOUT_FILENO, line.data(), line.size());
}

}  // namespace

CheckpointObserver::CheckpointObserver(Parts parts, int64_t saved_step) : parts_(std::move(parts)), saved_step_(saved_step) {}

void CheckpointObserver::save() {
  const TrainState state = parts_.state();
  dist::Communicator& ranks = parts_.all;
  ranks.set_place("save", state.step);
  together(ranks, [&] {
    if (parts_.folder == nullptr) {
      give_train_state(parts_.model, parts_.reducer);
      return;
    }
    const std::filesystem::path path = save_train_state(*parts_.folder, parts_.model, state, &parts_.reducer);
    run_status().checkpoint = path.string();
    log_debug("checkpoint {}", path.string());
    announce(state.step, path);
    parts_.folder->rotate(parts_.keep);
  });
  saved_step_ = state.step;
  failures_in_a_row_ = 0;
}

void CheckpointObserver::after_step(const StepReport& report) {
  run_status().step = report.step;
  if (parts_.every <= 0 || report.outcome == Outcome::skipped || report.step % parts_.every != 0) return;
  try {
    save();
  } catch (const Error& error) {
    if (error.kind != ErrorKind::io || ++failures_in_a_row_ > kFailuresAllowed) throw;
    log_warning("step {} is not saved, next try in {} steps: {}", report.step, parts_.every, error.what());
  }
}

void CheckpointObserver::after_last_step() {
  if (parts_.state().step != saved_step_) save();
}

}  // namespace longlora
