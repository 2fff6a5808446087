#pragma once
// The training loop: one step, and a loop that tells observers about it. Everything periodic is an observer.
#include <deque>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/data/dataset.h"
#include "longlora/model/llama.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/optim/optimizer.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/device.h"
#include "longlora/train/gradient_tree.h"
#include "longlora/train/hash_chain.h"
#include "longlora/train/reducer.h"

namespace longlora {

/// What one step did: everything that log, metrics and tests read.
struct StepReport {
  int64_t step = 0;  // completed steps, this one included; a skipped step keeps the number of the next one
  double loss = 0;   // nll sum / targets
  double grad_norm = 0, learning_rate = 0;
  int64_t targets = 0, tokens = 0, padding = 0;
  uint64_t first_row = 0, rows = 0;
  Outcome outcome = Outcome::applied;
  AttentionKind attention = AttentionKind::full;
  double seconds = 0, data_wait_seconds = 0;
  int64_t memory_bytes = 0, memory_peak_bytes = 0;  // of the device, the peak of this step; on the CPU of the process, resident
  int64_t resident_peak_bytes = 0;                  // of the process
  MemoryCount tensors;                              // host memory of this step: peaks and numbers since it began
  std::string hash;                                 // hex of the chain after this step
};

/// Where a run stands: what a checkpoint stores besides tensors.
struct Progress {
  int64_t step = 0;           // completed optimizer steps = number of the next step from 0
  int64_t applied_steps = 0;  // AdamW's t
  Cursor cursor;
  int64_t targets_seen = 0;
  Digest chain{};
};

/// Attention of step `step` (from 0): as configured, or full in the last `attention.full_steps` steps. A pure function.
AttentionSettings attention_at(const TrainConfig&, const RunPlan&, int64_t step);

/// Told after every step, in the order of registration. Observers never change the trained state.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void before_first_step() {}
  virtual void after_step(const StepReport&) = 0;
  virtual void after_last_step() {}  // all steps done, or stop requested
};

class Trainer {
 public:
  struct Parts {
    LlamaModel& model;
    BatchLoader& loader;
    AdamW& optimizer;
    Reducer& reducer;         // of the ranks that see other rows
    dist::Communicator& all;  // every rank of the run
    const TrainConfig& config;
    const RunPlan& plan;
    std::filesystem::path log_folder;             // nonfinite-<step>.json; empty: not written
    std::function<bool(ShortOf)> keep_less = {};  // a cheaper memory policy after a failed allocation; false: there is none
    const MemoryPlan* memory = nullptr;      // policies and bytes, read before every step; null: the model's own policies, bytes as needed
    dist::Communicator* sequence = nullptr;  // ranks that share every row (dist.sequence_parallel), also the model's sequence group
    bool coupled = false;                    // ranks wait for each other inside a pass: an error there ends the run on all of them
  };
  Trainer(Parts, Progress start);

  /// One optimizer step (src/train/step.cpp), together with the other ranks: all move or none. Non-finite loss or norm: nothing moves;
  /// `stop`: ErrorKind::numeric, `skip`: at most 3 in 100 steps. A global batch without targets: ErrorKind::data naming its rows. Out of
  /// memory before anything moved, memory.on_oom step_down: the same rows again with a cheaper policy, at most 3 times a run; the result is
  /// the same, since policies never change it.
  StepReport step();
  bool done() const { return progress_.step >= plan_.total_steps; }
  const Progress& progress() const { return progress_; }

  /// `while (!done) notify(step())`; ends early, after a whole step, when `stop_requested()`. True when all steps are done.
  /// A stop that any rank asks for ends all of them after the same step.
  bool run(const std::vector<Observer*>&, const std::function<bool()>& stop_requested);
  /// Forward and backward of the next step without moving anything: gradients, whole, in Parameter::grad (--dump-gradients).
  LossSum accumulate_gradients();

 private:
  std::vector<TokenBatch> rows_of_step(StepReport&);
  void open_memory(const AttentionSettings&);
  std::vector<LossSum> accumulate(const std::vector<TokenBatch>& shards, int64_t targets);
  void move_on(StepReport&, const UpdateGate&);
  ModelInput model_input(const TokenBatch&) const;
  // within_memory.cpp
  std::vector<LossSum> accumulate_within_memory(const std::vector<TokenBatch>& shards, int64_t targets);
  void keep_less(const std::exception_ptr& failure);
  void end_all(const std::exception_ptr& failure);
  [[noreturn]] void out_of_memory(const std::exception_ptr& failure) const;
  void skip_or_stop(const StepReport&);
  void write_nonfinite(const StepReport&) const;

  LlamaModel& model_;
  BatchLoader& loader_;
  AdamW& optimizer_;
  Reducer& reducer_;
  dist::Communicator& all_;
  dist::Communicator* sequence_;
  bool coupled_;
  const TrainConfig& config_;
  const RunPlan& plan_;
  std::filesystem::path log_folder_;
  Progress progress_;
  std::vector<Parameter*> trainable_;
  GradientTree tree_;
  std::deque<double> last_losses_;
  std::function<bool(ShortOf)> keep_less_;
  const MemoryPlan* memory_;
  int step_downs_ = 0;
};

}  // namespace longlora
