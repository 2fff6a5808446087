#pragma once
// How a plan is said: for people, as JSON (`plan --json`, plan.json of a run), and one line a length. One place, so that all of them agree.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longlora/plan/memory_plan.h"
#include "longlora/plan/rates.h"

namespace longlora {

/// Tokens of the longest row that fits; 0: not asked for, or none.
struct LongestContext {
  int64_t tokens = 0, without_host = 0;  // without_host: nothing offloaded, asked for where a plan has host memory beside a GPU
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
};

PlanReport report_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&, const MemoryPlan&, const Rates&);

/// Field names are a contract: fields are added, never renamed.
std::string plan_json(const PlanReport&);
std::string plan_text(const PlanReport&);

/// One length of a table: a plan, or why there is none.
struct PlanRow {
  int64_t sequence_length = 0;
  std::string refused;  // what is needed and available; empty: `plan` holds
  LongestContext longest;
  PlanReport plan;
};
std::string plan_table_json(const std::vector<PlanRow>&);
std::string plan_table_text(const std::vector<PlanRow>&);

}  // namespace longlora
