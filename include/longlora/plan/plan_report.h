#pragma once
// How a plan is said: for people, as JSON (`plan --json`, plan.json of a run), and one line a length. One place, so that all of them agree.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longlora/plan/memory_plan.h"
#include "longlora/plan/rates.h"

namespace longlora {

/// Tokens of the longest row that fits; nullopt: not asked for, 0: none.
struct LongestContext {
  std::optional<int64_t> tokens, without_host;  // without_host: nothing offloaded, asked for where a plan has host memory beside a GPU
};

/// A plan with its predicted time.
struct PlanReport {
  RunPlan run;
  MemoryPlan memory;
  ParameterCounts counts;
  Rates rates;
  StepTime time;
  std::optional<StepTime> full_attention_time;  // of a step of attention.full_steps
  int64_t ranks = 1;                            // in all
  LongestContext longest;
  double link_gbytes = 0;  // GB/s between ranks as the user says it; 0: not said
  PlanTarget target;
  std::string budget_source, host_source;  // who says how much memory there is: a flag, a key, or this machine
  AttentionKind attention = AttentionKind::full;
  int64_t steps = 0, full_steps = 0;  // steps: of the run; 0: not known before its rows are counted. full_steps: the last of them
  double run_seconds() const;
};

PlanReport report_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&, const MemoryPlan&, const Rates&);

/// Field names are a contract: fields are added, never renamed.
std::string plan_json(const PlanReport&);
std::string plan_text(const PlanReport&);

/// One length of a table: a plan, or why there is none.
struct PlanRow {
  int64_t sequence_length = 0;
  std::string refused;            // what is needed and available, or what of the configuration is impossible; empty: `plan` holds
  bool is_misconfigured = false;  // the latter
  LongestContext longest;
  PlanReport plan;
};
/// What `--max-context` says where the configured length does not fit.
std::string refusal_json(const PlanRow&);
std::string longest_text(const LongestContext&);
std::string plan_table_json(const std::vector<PlanRow>&);
std::string plan_table_text(const std::vector<PlanRow>&);

}  // namespace longlora
