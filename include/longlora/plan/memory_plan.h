#pragma once
// Bytes and FLOPs from shapes alone (docs/memory.md): what `plan` prints, how `memory.policy: auto` chooses, and what the model's arena is
// carved by.
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/layer_memory.h"
#include "longlora/plan/rates.h"

namespace longlora {

struct ParameterCounts {
  int64_t total = 0, trainable = 0, lora = 0, norms = 0, embeddings = 0, head = 0, projections = 0;
};
/// Of the whole model by role. `trainable` counts what `tuning` trains; `total` includes LoRA.
ParameterCounts count_parameters(const ModelConfig&, const TrainConfig::Tuning&);

/// Bytes are those of one rank.
struct MemoryPlan {
  std::vector<LayerPolicy> layer_policy;       // of a step with the configured attention
  std::vector<LayerPolicy> full_layer_policy;  // of a step with full attention; empty unless attention.full_steps > 0
  /// component -> bytes, each list ends with "total". One of them is the memory that `budget_bytes` limits and names everything; on a GPU
  /// host_bytes is what waits there for layers, on a CPU device_bytes is its total alone, 0.
  std::vector<std::pair<std::string, int64_t>> device_bytes, host_bytes;

  int64_t arena_bytes = 0;         // of activations: the peak of every pass that the run makes
  int64_t offload_host_bytes = 0;  // inputs of offloaded layers, in host memory
  ActivationPeak peak;             // what is alive when the arena is full
  enum class Pass : uint8_t { training, full_attention, evaluation } peak_pass = Pass::training;
  int64_t stream_block = 0;       // tokens; 0: these rows cannot be streamed
  bool stream_keeps_bits = true;  // false: streamed and whole layers may differ in last bits (docs/memory.md section 6)
  std::string next;               // the next better mix of policies and what it needs; empty: this is the best
  std::string search_rates;       // the source of the rates that the mix was chosen by

  FlopsPerToken flops;                   // of a step with the configured attention
  FlopsPerToken full_attention_flops;    // of a step with full attention: attention.full_steps
  int64_t row_tile = 0, loss_chunk = 0;  // most rows
  int64_t budget_bytes = 0, host_budget_bytes = 0;
  int64_t weight_ranks = 1;        // that share the frozen projections (dist.shard_weights, resolved); 1: each rank has them all
  int64_t state_ranks = 1;         // that share masters and moments (dist.shard_state)
  int64_t gather_bytes = 0;        // a rank receives before it computes a layer, forward and once more backward
  double layer_forward_flops = 0;  // products of one layer and micro-batch: what hides a gather

  bool on_gpu() const { return device_bytes.size() > 1; }
  int64_t peak_bytes() const;          // total of the memory that `budget_bytes` limits
  std::string peak_name() const;       // "backward of layer 31"
  std::string policy_summary() const;  // "layers 0..3 checkpoint, 4..5 save_all"
  std::string policy_name() const;     // one name, or "mixed"
};

/// Where a plan would run. cpu: everything lives in host memory, which budget_bytes limits; layers' inputs go there by an explicit
/// checkpoint_offload only. gpu: budget_bytes of the device (1 GiB of it for libraries), host_budget_bytes for offloaded inputs.
struct PlanTarget {
  enum class Device { cpu, gpu } device = Device::cpu;
  int64_t element_bytes = 4;  // 2 for bf16 compute, 4 for fp32
  int64_t budget_bytes = 0;
  int64_t host_budget_bytes = 0;
};

/// With several ranks (RunPlan::ranks, times dist.sequence_parallel for weights) the bytes are those of one of them;
/// dist.shard_weights: auto becomes frozen only where nothing fits without.
/// Chooses what memory.policy and memory.halo_streaming leave open: of all mixes within the budgets the one that costs the least time at
/// these rates, ties to fewer bytes. The same inputs give the same plan. ErrorKind::memory with needed and available bytes and the three
/// cheapest remedies when nothing fits, ErrorKind::config where memory.halo_streaming: on cannot be. Below a second for 80 layers.
MemoryPlan make_memory_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&, const Rates&);
/// By the assumed rates of the target, as `train` does: one configuration has one plan on every machine.
MemoryPlan make_memory_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
Rates default_rates(const PlanTarget&);
/// On a CPU.
MemoryPlan make_memory_plan(const ModelConfig&, const TrainConfig&, const RunPlan&, int64_t element_bytes, int64_t budget_bytes);
/// Largest sequence length (multiple of 256, 0 when none) whose cheapest plan in bytes fits; group recomputed from the ratio.
int64_t largest_context(const ModelConfig&, const TrainConfig&, const RunPlan&, const PlanTarget&);
/// Of all processes on this host together: what is available (core/host_memory.h) - 8 GiB, or half of it when that is more. Ranks of one
/// host share it: memory.host_budget defaults to a part.
int64_t default_host_budget(const std::filesystem::path& root = "/");

}  // namespace longlora
