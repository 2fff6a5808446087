#include "train/run_observers.h"

namespace longlora {

RunObservers::RunObservers(Parts parts, const ResumeState* resumed, int64_t first_step) : parts_(std::move(parts)) {
  const PreparedRun& run = parts_.run;
  const TrainConfig& config = run.config();
  const std::filesystem::path& out = parts_.folder.path();
  const bool is_root = parts_.all.rank() == 0;
  if (is_root) {
    add(metrics_, out / "metrics.jsonl", resumed != nullptr ? resumed->state.metrics_bytes : 0, run.memory, parts_.peak_flops_per_second);
    add(memory_, out / "memory.json", run.memory, run.device.is_gpu());
    add(progress_, parts_.progress, config.log.every, run.plan.total_steps, parts_.folder.log_file());
  }
  add(checkpoints_,
      CheckpointObserver::Parts{parts_.folder.checkpoints(), parts_.model, parts_.reducer, parts_.all, config.checkpoint.every,
                                config.checkpoint.keep, [this] { return state(); }},
      resumed != nullptr ? first_step : -1);
  if (is_root && config.log.tensorboard && first_step < run.plan.total_steps) add(events_, out);
  if (parts_.data.validation)
    add(evaluation_,
        EvaluationObserver::Parts{parts_.model, *parts_.data.validation, config, run.plan, out / "evaluation.jsonl",
                                  events_ ? &events_->file() : nullptr, parts_.stop_requested, parts_.all},
        first_step);
}

TrainState RunObservers::state() {
  if (metrics_) metrics_->sync();  // the recorded length must never exceed the file
  return parts_.state(metrics_ ? metrics_->bytes() : 0);
}

}  // namespace longlora
