#pragma once
// What happens after a step besides training: metrics.jsonl, progress, TensorBoard, checkpoints, evaluation. None changes the trained
// state.
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "longlora/checkpoint/train_state.h"
#include "longlora/core/files.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/evaluation.h"
#include "longlora/train/events_file.h"
#include "longlora/train/trainer.h"

namespace longlora {

/// One JSON line a step. A failing disk costs lines, never the run; a half-written line is overwritten by the next.
class MetricsObserver : public Observer {
 public:
  /// Cuts the file to `keep_bytes` (resume), 0 starts it anew. MFU and HFU: the FLOPs of the plan, which must outlive this and may change
  /// between steps, of the machine's peak.
  MetricsObserver(const std::filesystem::path& file, uint64_t keep_bytes, const MemoryPlan&, double peak_flops_per_second);
  void after_step(const StepReport&) override;
  uint64_t bytes() const { return written_; }
  void sync();  // before a checkpoint notes bytes()
 private:
  std::optional<OutputFile> file_;
  uint64_t written_ = 0;
  const MemoryPlan& plan_;
  double peak_flops_per_second_;
  bool warned_ = false;
};

enum class ProgressMode { automatic, bar, line, none };

/// A bar on a terminal, one line every log.every steps elsewhere; every step goes to logs/rank_0.log.
class ProgressObserver : public Observer {
 public:
  ProgressObserver(ProgressMode, int64_t every, int64_t total_steps, std::filesystem::path log_file);
  ~ProgressObserver() override;
  void after_step(const StepReport&) override;
  void after_last_step() override;

 private:
  std::string line(const StepReport&) const;
  ProgressMode mode_;
  int64_t every_, total_steps_;
  std::filesystem::path log_file_;
  double seconds_per_step_ = 0;
};

class EventsObserver : public Observer {
 public:
  explicit EventsObserver(const std::filesystem::path& folder);
  void after_step(const StepReport&) override;
  EventsFile& file() { return file_; }

 private:
  EventsFile file_;
};

/// Saves every `every` steps and at the end, all ranks together; the root writes. The third failure in a row ends the run on all of them
/// (ErrorKind::io), earlier ones are warnings.
class CheckpointObserver : public Observer {
 public:
  struct Parts {
    CheckpointFolder* folder;  // the root's; null elsewhere
    LlamaModel& model;
    Reducer& reducer;
    dist::Communicator& all;
    int64_t every, keep;
    std::function<TrainState()> state;
  };
  CheckpointObserver(Parts, int64_t saved_step);
  void after_step(const StepReport&) override;
  void after_last_step() override;

 private:
  void save();
  Parts parts_;
  int64_t saved_step_;  // -1: nothing saved yet
  int failures_in_a_row_ = 0;
};

/// Perplexity on data.validation every evaluate.every steps, before the first and after the last: evaluation.jsonl and TensorBoard.
class EvaluationObserver : public Observer {
 public:
  struct Parts {
    LlamaModel& model;
    const Dataset& validation;
    const TrainConfig& config;
    const RunPlan& plan;
    std::filesystem::path file;
    EventsFile* events;  // may be null
    std::function<bool()> stop_requested;
    dist::Communicator& ranks;  // share the windows; the root writes
  };
  EvaluationObserver(Parts, int64_t resumed_step);  // drops lines of later steps from the file
  void before_first_step() override;
  void after_step(const StepReport&) override;
  void after_last_step() override;

 private:
  void evaluate();
  Parts parts_;
  int64_t step_, evaluated_step_ = -1;
};

}  // namespace longlora
