#pragma once
// Numbers derived once from the configuration, the model and the world; immutable and printable.

#include <cstdint>
#include <string>

#include "longlora/config/model_config.h"
#include "longlora/config/train_config.h"

namespace longlora {

struct RunPlan {
  int64_t sequence_length = 0, micro_batch = 1, global_batch = 1;
  int64_t canonical_shards = 1;        // global_batch / micro_batch
  int64_t ranks = 1;
  int64_t accumulation = 1;            // shards per rank
  int64_t tokens_per_step = 0;         // = micro_batch x sequence_length x accumulation x ranks
  int64_t group = 0;                   // resolved group size in tokens; 0 for full attention
  int64_t total_steps = 0;             // 0 until the data is counted (train.epochs)
  RopeExtension rope;
};

/// g = 2 * ceil(ratio * T / 2 - 1e-6), or the given size, or LongLoRA's SFT rule (T/4 if T % 4096 == 0, else 8192).
int64_t resolve_group(const TrainConfig::Attention&, int64_t sequence_length);
/// Number of query heads of layer `layer` that use plain segments: floor(H/2), or H / 0 by pattern.
int64_t num_plain_heads(AttentionPattern, int64_t num_heads, int64_t layer);

/// Cross-field checks that need the model (heads, group, batch divisibility, trainable set) and the derived numbers.
/// All problems together: Error{config} with details.
RunPlan make_run_plan(const TrainConfig&, const ModelConfig&, int64_t ranks = 1);

}  // namespace longlora
