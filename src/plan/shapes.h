#pragma once
// The letters of docs/memory.md section 1, and the formulas of sections 4 and 5 over them: what is alive all the time, and FLOPs.
#include <cstdint>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/plan/weight_parts.h"

namespace longlora::plan {

/// Sets of gradients beside the gradient itself on the rank that needs most of them: what GradientTree and its sum over ranks hold.
int64_t spare_gradient_sets(const RunPlan&);
/// Lengths that evaluations during the run see; none without evaluation.
std::vector<int64_t> evaluation_contexts(const TrainConfig&, const RunPlan&);
/// Most tokens of a row that one rank has: ceil(M / P) half-groups.
int64_t longest_part(const RunPlan&, int64_t sequence_ranks);

bool trains_head(const ModelConfig&, const TrainConfig::Tuning&);

/// Tokens are those of one micro-batch on one rank.
struct Shapes {
  Shapes(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
  int64_t layers, head_dim, tokens, element_bytes;
  int64_t positions;  // of the RoPE table
  int64_t gradient_sets;
  bool gpu;
  // each rank holds one of so many parts; dist.shard_weights resolved: auto counts as none
  int64_t weight_ranks, data_ranks, state_ranks, sequence_ranks;
  bool halves;  // data ranks exchange halves of gradients, not whole ones
  ParameterCounts counts;
  WeightParts parts;

  int64_t weight_bytes() const, state_bytes() const, tree_bytes() const, exchange_bytes() const, runtime_bytes() const, table_bytes() const;
  int64_t fixed_bytes() const { return weight_bytes() + state_bytes() + tree_bytes() + exchange_bytes() + runtime_bytes() + table_bytes(); }
  int64_t state_share() const;  // trained elements whose master and moments one rank has
};

}  // namespace longlora::plan
