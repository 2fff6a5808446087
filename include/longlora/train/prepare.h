#pragma once
// From a configuration to a checked plan, before any weight is read and without writing anything: what `train`, `plan` and
// `train --dry-run` share.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "longlora/checkpoint/model_io.h"
#include "longlora/config/config_io.h"
#include "longlora/config/run_plan.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/tokenizer/tokenizer.h"
#include "longlora/train/device.h"

namespace longlora {

struct PreparedRun {
  LoadedConfig loaded;
  std::unique_ptr<BaseModel> base;
  RunPlan plan;  // total_steps 0 until epochs are counted
  ComputeDevice device;
  ComputeType compute = ComputeType::fp32;
  ParameterCounts counts;
  MemoryPlan memory;
  PlanTarget within;                       // what `memory` was planned for: the budgets, less after an allocation failed
  std::optional<int64_t> held_host_bytes;  // offloaded inputs of the plan before `memory`, for which the host had room
  const TrainConfig& config() const { return loaded.config; }
};

/// exporting: on the CPU, no plan of memory.
enum class PrepareFor { training, exporting };
/// Reads config.json and weight headers, checks heads, groups, batch, trainable set, data paths, memory. Errors: config, missing, data,
/// memory. `ranks`: those that see other rows; `local_ranks`: those on this host, which share its memory.
PreparedRun prepare_run(LoadedConfig, PrepareFor = PrepareFor::training, int64_t ranks = 1, int64_t local_ranks = 1);
/// Plans again (memory.policy auto) for 5 % less than the present plan needs; where the host was short beside a GPU, for as much of the
/// device, and of the host what the plan before held, or 5 % less than the present one asks for. False when nothing cheaper exists.
bool replan_with_less(PreparedRun&, ShortOf);
/// Lines for people: counts by role, plan, policy, group, RoPE old to new, world, output.
std::vector<std::string> banner(const PreparedRun&);

/// The tokenizer of a base model: of its folder, or made from the lists inside a GGUF file; nullptr when there is none.
std::unique_ptr<Tokenizer> base_tokenizer(const BaseModel&);

/// The model of a prepared run with base weights (loaded, or random by Philox) and fresh LoRA; returns the digest of the base weights.
/// `weight_ranks`: who shares the frozen weights when the plan says so (MemoryPlan::weight_ranks > 1); see ModelOptions::weight_ranks.
std::unique_ptr<LlamaModel> make_model(const PreparedRun&, Digest& weights_digest, dist::Communicator* weight_ranks = nullptr);

}  // namespace longlora
