#pragma once
// Which passes a run makes over the layers, and the shapes of each: what the model derives from the same configuration.
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/layer_memory.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/plan/row_tiles.h"

namespace longlora::plan {

struct PassShape {
  AttentionKind kind = AttentionKind::full;
  LayerShape layer;
  LossShape loss;
};

/// Of a step with the configured attention; of one with full attention (attention.full_steps).
PassShape training_pass(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
PassShape full_attention_pass(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
/// One row of every context; empty without evaluation.
std::vector<PassShape> evaluation_passes(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);

/// ErrorKind::config with the reason where memory.halo_streaming: on cannot be.
void check_streaming(const TrainConfig&, const RunPlan&);
/// Is a block a whole number of the attention's backward tiles? Otherwise sums inside a block are cut elsewhere than in the whole row, and
/// streaming may change last bits.
bool block_is_whole_tiles(int64_t block, int64_t head_dim, const PlanTarget&);

}  // namespace longlora::plan
