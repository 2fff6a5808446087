#pragma once
// The letters of docs/memory.md section 1, and the formulas of sections 2 and 3 over them.
#include <cstdint>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/plan/weight_parts.h"

namespace longlora::plan {

enum class Keep { checkpoint, save_attention, save_all };

/// Everything the formulas need; tokens are those of one micro-batch on one rank: B * T, or with dist.sequence_parallel B times the most
/// that a part of a row can have.
struct Shapes {
  Shapes(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
  int64_t layers, hidden, ffn, heads, kv_heads, head_dim, q_width, kv_width, vocab;
  int64_t tokens, sequence_length, positions, halo_bytes, element_bytes, shards, row_tile, loss_rows;
  bool tied, head_trained, full_tuning, gpu;
  int64_t weight_ranks, state_ranks;  // each rank holds one of so many parts; dist.shard_weights resolved: auto counts as none
  ParameterCounts counts;
  WeightParts parts;

  int64_t layer_matmul_parameters() const;  // N
  int64_t layer_weight_bytes() const;       // of all layers, on one rank
  double attention_flops_per_token;         // a: forward, all layers, exact pairs
  double model_flops_per_token() const;
  double recompute_flops_per_token(Keep) const;  // of one layer

  int64_t weight_bytes() const, state_bytes() const, tree_bytes() const, runtime_bytes() const;
  int64_t tile_bytes() const, loss_chunk_bytes() const, per_token_bytes() const;
  int64_t kept_bytes(Keep) const;       // one layer, all tokens
  int64_t workspace_bytes(Keep) const;  // backward of one layer, without what the policy keeps
  int64_t fixed_bytes() const;
};

}  // namespace longlora::plan
