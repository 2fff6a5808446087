#pragma once
// One configuration on one target, ready to be searched: what is alive all the time, the passes, and what memory they may use.
#include <optional>
#include <vector>

#include "longlora/plan/memory_plan.h"
#include "longlora/plan/rates.h"
#include "plan/passes.h"
#include "plan/search.h"
#include "plan/shapes.h"

namespace longlora::plan {

/// Least memory that a configuration can run in, in the terms of PlanTarget's budgets.
struct Need {
  int64_t bytes = 0, host_bytes = 0;
  bool within(const PlanTarget& t) const { return bytes <= t.budget_bytes && host_bytes <= t.host_budget_bytes; }
};

struct Setup {
  /// `config` with dist.shard_weights resolved (see `resolved`). ErrorKind::config as make_memory_plan.
  Setup(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);

  PlanTarget target;
  Shapes shapes;
  PassShape training;
  std::optional<PassShape> full;       // attention.full_steps
  StepShape training_step, full_step;  // with the configured attention, with full attention
  std::vector<PassShape> evaluations;
  Freedom freedom;

  Search search(const PassShape&, const LayerCosts& = {}) const;
  LayerCosts costs(const PassShape&, const Rates&) const;
  ActivationPeak evaluation_peak() const;  // the largest
  /// For activations and for offloaded inputs. On a CPU both share one budget.
  Limits limits() const;
  Need need() const;
  int64_t offloaded_bytes(const PassShape&) const;  // when the policy puts the input of every layer on the host, else 0
};

/// `auto` becomes frozen only where nothing fits without: gathers cost time.
TrainConfig resolved(const ModelConfig&, TrainConfig, const RunPlan&, const PlanTarget&);
/// Of the resolved configuration.
Need need_of(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);

/// "set A (1.0 GiB), B >= 2.0 GiB or C: 4096": the three cheapest changes that make it fit, with what they then need where the change has
/// no number of its own. Short: the line that a user sees has 240 bytes.
std::string remedies(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);

/// `largest_context`, no longer than `most_tokens`.
int64_t longest_that_fits(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&, int64_t most_tokens);

/// The same run with rows of another length.
RunPlan with_length(const TrainConfig&, RunPlan, int64_t sequence_length);

std::string gib_text(int64_t bytes);
std::string budget_key(const PlanTarget&);

}  // namespace longlora::plan
