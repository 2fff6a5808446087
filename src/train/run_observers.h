#pragma once
// What a run does after each of its steps: the observers of this rank, made in the order in which they are told.
#include <functional>
#include <optional>
#include <vector>

#include "longlora/train/memory_report.h"
#include "longlora/train/observers.h"
#include "train/resume.h"
#include "train/run_data.h"
#include "train/run_folder.h"

namespace longlora {

class RunObservers {
 public:
  /// All of it outlives this.
  struct Parts {
    const PreparedRun& run;  // its memory plan may change between steps
    const RunData& data;
    RunFolder& folder;
    LlamaModel& model;
    Reducer& reducer;
    dist::Communicator& all;
    ProgressMode progress;
    double peak_flops_per_second;
    std::function<TrainState(uint64_t metrics_bytes)> state;
    std::function<bool()> stop_requested;
  };
  /// `resumed`: null for a new run. `first_step`: completed before this start.
  RunObservers(Parts, const ResumeState* resumed, int64_t first_step);
  RunObservers(const RunObservers&) = delete;
  const std::vector<Observer*>& list() const { return list_; }

 private:
  TrainState state();
  template <class T, class... Arguments>
  void add(std::optional<T>& place, Arguments&&... arguments) {
    list_.push_back(&place.emplace(std::forward<Arguments>(arguments)...));
  }

  Parts parts_;
  std::optional<MetricsObserver> metrics_;  // the root's, as memory, progress and events
  std::optional<MemoryObserver> memory_;
  std::optional<ProgressObserver> progress_;
  std::optional<CheckpointObserver> checkpoints_;
  std::optional<EventsObserver> events_;
  std::optional<EvaluationObserver> evaluation_;
  std::vector<Observer*> list_;
};

}  // namespace longlora
