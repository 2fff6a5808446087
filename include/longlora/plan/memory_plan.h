#pragma once
// Bytes and FLOPs from shapes alone (docs/memory.md sections 2, 3): what `plan` prints and how `memory.policy: auto` chooses.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"

namespace longlora {

struct ParameterCounts {
  int64_t total = 0, trainable = 0, lora = 0, norms = 0, embeddings = 0, head = 0, projections = 0;
};
/// Of the whole model by role. `trainable` counts what `tuning` trains; `total` includes LoRA.
ParameterCounts count_parameters(const ModelConfig&, const TrainConfig::Tuning&);

struct FlopsPerToken {
  double model = 0, hardware = 0;  // hardware: with what the policy computes a second time
};

struct MemoryPlan {
  std::vector<std::string> layer_policy;                      // per layer: checkpoint, save_attention, save_all
  std::vector<std::pair<std::string, int64_t>> device_bytes;  // component -> bytes, ends with "total"
  std::vector<std::pair<std::string, int64_t>> host_bytes;
  FlopsPerToken flops;                 // of a step with the configured attention
  FlopsPerToken full_attention_flops;  // of a step with full attention: attention.full_steps
  int64_t row_tile = 0, loss_chunk = 0;
  int64_t budget_bytes = 0;
  int64_t weight_ranks = 1;        // that share the frozen projections (dist.shard_weights, resolved); 1: each rank has them all
  int64_t state_ranks = 1;         // that share masters and moments (dist.shard_state)
  int64_t gather_bytes = 0;        // a rank receives before it computes a layer, forward and once more backward
  double layer_forward_flops = 0;  // products of one layer and micro-batch: what hides a gather
  int64_t peak_bytes() const;          // total of the memory that `budget_bytes` limits
  std::string policy_summary() const;  // "layers 0..3 checkpoint, 4..5 save_all"
  std::string policy_name() const;     // one name, or "mixed"
};

/// Where a plan would run. cpu: everything lives in host memory. gpu: planning figures of docs/memory.md (runtime 1 GiB, augmentation
/// columns).
struct PlanTarget {
  enum class Device { cpu, gpu } device = Device::cpu;
  int64_t element_bytes = 4;  // 2 for bf16 compute, 4 for fp32
  int64_t budget_bytes = 0;
};

/// With several ranks (RunPlan::ranks, times dist.sequence_parallel for weights) the bytes are those of one of them;
/// dist.shard_weights: auto becomes frozen only where nothing fits without.
/// Chooses per-layer policies for `auto` so that the predicted peak stays within `budget_bytes` (ErrorKind::memory with needed, available
/// and the cheapest remedies when nothing fits). element_bytes: 2 for bf16 compute, 4 for fp32.
MemoryPlan make_memory_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, int64_t element_bytes, int64_t budget_bytes);
MemoryPlan make_memory_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
/// Largest sequence length (multiple of 256, 0 when none) whose cheapest plan fits; group recomputed from the ratio.
int64_t largest_context(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
/// min(available memory, control-group limit) - 8 GiB or half of it when smaller; what memory.host_budget defaults to.
int64_t default_host_budget();

}  // namespace longlora
