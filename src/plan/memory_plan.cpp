#include "longlora/plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "longlora/core/error.h"
#include "plan/shapes.h"

namespace longlora {
namespace {

using plan::Keep;
using plan::Shapes;

// Attention runs at about two thirds of the rate of plain products (measured on two AVX2 cores), so its FLOPs weigh more.
constexpr double kAttentionWeight = 1.5;

/// The last `num_all` layers keep everything, the `num_attention` before them keep attention: their kept bytes are freed first.
struct Mix {
  int64_t num_all = 0, num_attention = 0;
  Keep of(int64_t layer, int64_t layers) const {
    if (layer >= layers - num_all) return Keep::save_all;
    return layer >= layers - num_all - num_attention ? Keep::save_attention : Keep::checkpoint;
  }
};

struct Bytes {
  int64_t kept = 0, workspace = 0;
};

/// Largest sum of kept layers and the workspace of the layer whose backward runs: what is alive at the worst moment.
Bytes activation_bytes(const Shapes& s, const Mix& mix) {
  Bytes worst;
  int64_t kept = 0;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const Keep keep = mix.of(layer, s.layers);
    kept += s.kept_bytes(keep);
    const int64_t workspace = s.workspace_bytes(keep);
    if (kept + workspace >= worst.kept + worst.workspace) worst = {kept, workspace};
  }
  return worst;
}

int64_t peak_bytes(const Shapes& s, const Mix& mix) {
  const Bytes b = activation_bytes(s, mix);
  return s.fixed_bytes() + s.per_token_bytes() + b.kept + b.workspace;
}

double recompute_cost(const Shapes& s, const Mix& mix) {
  const double attention = s.attention_flops_per_token / static_cast<double>(s.layers);
  double cost = 0;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const Keep keep = mix.of(layer, s.layers);
    cost += s.recompute_flops_per_token(keep) + (keep == Keep::checkpoint ? (kAttentionWeight - 1) * attention : 0);
  }
  return cost;
}

/// Cheapest mix that fits, ties to fewer bytes; nullopt when not even recomputing everything fits.
std::optional<Mix> cheapest_mix(const Shapes& s, int64_t budget) {
  std::optional<Mix> best;
  double best_cost = 0;
  int64_t best_bytes = 0;
  for (int64_t all = 0; all <= s.layers; ++all) {
    for (int64_t attention = 0; attention <= s.layers - all; ++attention) {
      const Mix mix{all, attention};
      const int64_t bytes = peak_bytes(s, mix);
      if (bytes > budget) continue;
      const double cost = recompute_cost(s, mix);
      if (!best || cost < best_cost || (cost == best_cost && bytes < best_bytes)) best = mix, best_cost = cost, best_bytes = bytes;
    }
  }
  return best;
}

Mix fixed_mix(const Shapes& s, MemoryPolicy policy) {
  LONGLORA_CHECK(policy != MemoryPolicy::checkpoint_offload, config, "checkpoint_offload is not in this version", "memory.policy",
                 "use auto, save_all, save_attention or checkpoint");
  if (policy == MemoryPolicy::save_all) return {.num_all = s.layers};
  if (policy == MemoryPolicy::save_attention) return {.num_attention = s.layers};
  return {};
}

std::string gib(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

[[noreturn]] void refuse(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target,
                         int64_t needed) {
  const int64_t fits = largest_context(model, config, run, target);
  const std::string budget_key = target.device == PlanTarget::Device::cpu ? "memory.host_budget" : "memory.device_budget";
  std::string remedies;
  if (config.memory.policy != MemoryPolicy::automatic) remedies += "memory.policy: auto, ";
  const bool could_share = run.ranks * config.dist.sequence_parallel > 1 && config.tuning.mode != TuningMode::full;
  if (could_share && config.dist.shard_weights == ShardWeights::none) remedies += "dist.shard_weights: auto, ";
  if (fits > 0 && fits < run.sequence_length)
    remedies += "data.sequence_length <= " + std::to_string(fits) + ", ";
  else if (run.micro_batch > 1)
    remedies += "train.micro_batch: 1, ";
  remedies += budget_key + " >= " + gib(needed);
  if (config.tuning.mode == TuningMode::lora && config.tuning.train_embeddings) remedies += ", or tuning.train_embeddings: false";
  fail(ErrorKind::memory, "needs " + gib(needed) + " of memory, " + gib(target.budget_bytes) + " may be used", budget_key,
       "set " + remedies);
}

FlopsPerToken flops_of(const Shapes& s, const Mix& mix) {
  FlopsPerToken flops{.model = s.model_flops_per_token(), .hardware = s.model_flops_per_token()};
  for (int64_t layer = 0; layer < s.layers; ++layer) flops.hardware += s.recompute_flops_per_token(mix.of(layer, s.layers));
  return flops;
}

void fill(MemoryPlan& result, const Shapes& s, const Mix& mix) {
  const Bytes active = activation_bytes(s, mix);
  std::vector<std::pair<std::string, int64_t>> parts = {{"weights", s.weight_bytes()},
                                                        {"optimizer_and_gradient", s.state_bytes()},
                                                        {"gradient_tree", s.tree_bytes()},
                                                        {"runtime", s.runtime_bytes()},
                                                        {"tile_or_loss_chunk", std::max(s.tile_bytes(), s.loss_chunk_bytes())},
                                                        {"tables", s.per_token_bytes()},
                                                        {"kept_activations", active.kept},
                                                        {"layer_workspace", active.workspace}};
  int64_t total = 0;
  for (const auto& [name, bytes] : parts) total += bytes;
  parts.emplace_back("total", total);
  std::vector<std::pair<std::string, int64_t>> none = {{"total", 0}};
  result.device_bytes = s.gpu ? parts : none;
  result.host_bytes = s.gpu ? none : parts;

  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const Keep keep = mix.of(layer, s.layers);
    result.layer_policy.emplace_back(keep == Keep::save_all ? "save_all" : keep == Keep::save_attention ? "save_attention" : "checkpoint");
  }
  result.weight_ranks = s.weight_ranks;
  result.state_ranks = s.state_ranks;
  if (s.weight_ranks > 1) result.gather_bytes = s.parts.layer_bytes() - s.parts.part_bytes();
  result.layer_forward_flops = 2.0 * static_cast<double>(s.layer_matmul_parameters() / s.layers) * static_cast<double>(s.tokens);
  result.row_tile = s.row_tile;
  result.loss_chunk = s.loss_rows;
}

/// With what is cheapest in bytes: everything recomputed, unless the policy is fixed.
int64_t least_bytes(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  const Shapes s(model, config, run, target);
  return peak_bytes(s, config.memory.policy == MemoryPolicy::automatic ? Mix{} : fixed_mix(s, config.memory.policy));
}

/// `auto` becomes frozen only where nothing fits without: gathers cost time.
TrainConfig with_sharing_resolved(const ModelConfig& model, TrainConfig config, const RunPlan& run, const PlanTarget& target) {
  if (config.dist.shard_weights != ShardWeights::automatic) return config;
  config.dist.shard_weights = ShardWeights::none;
  const int64_t whole = least_bytes(model, config, run, target);
  if (whole <= target.budget_bytes) return config;
  TrainConfig shared = config;
  shared.dist.shard_weights = ShardWeights::frozen;
  return least_bytes(model, shared, run, target) < whole ? shared : config;  // two layers are whole besides: shallow models gain nothing
}

bool fits_at(const ModelConfig& model, const TrainConfig& config, RunPlan run, const PlanTarget& target, int64_t length) {
  run.sequence_length = length;
  const bool by_ratio = !config.attention.group_size && config.attention.group_preset == GroupPreset::none;
  if (config.attention.kind != AttentionKind::full && by_ratio) run.group = resolve_group(config.attention, length);
  return least_bytes(model, with_sharing_resolved(model, config, run, target), run, target) <= target.budget_bytes;
}

}  // namespace

int64_t MemoryPlan::peak_bytes() const { return std::max(device_bytes.back().second, host_bytes.back().second); }

std::string MemoryPlan::policy_name() const {
  const bool uniform =
      std::all_of(layer_policy.begin(), layer_policy.end(), [&](const std::string& p) { return p == layer_policy.front(); });
  return uniform && !layer_policy.empty() ? layer_policy.front() : "mixed";
}

std::string MemoryPlan::policy_summary() const {
  std::string text;
  for (size_t first = 0; first < layer_policy.size();) {
    size_t last = first;
    while (last + 1 < layer_policy.size() && layer_policy[last + 1] == layer_policy[first]) ++last;
    text += (text.empty() ? "layers " : ", ") + std::to_string(first) + ".." + std::to_string(last) + " " + layer_policy[first];
    first = last + 1;
  }
  return text;
}

MemoryPlan make_memory_plan(const ModelConfig& model, const TrainConfig& wanted_config, const RunPlan& run, const PlanTarget& target) {
  const TrainConfig config = with_sharing_resolved(model, wanted_config, run, target);
  const Shapes s(model, config, run, target);
  const bool automatic = config.memory.policy == MemoryPolicy::automatic;
  const Mix wanted = automatic ? Mix{} : fixed_mix(s, config.memory.policy);
  const int64_t least = peak_bytes(s, wanted);
  if (least > target.budget_bytes) refuse(model, wanted_config, run, target, least);
  MemoryPlan result;
  result.budget_bytes = target.budget_bytes;
  const Mix mix = automatic ? *cheapest_mix(s, target.budget_bytes) : wanted;
  fill(result, s, mix);
  TrainConfig full = config;
  full.attention.kind = AttentionKind::full;
  result.flops = flops_of(s, mix);
  result.full_attention_flops = flops_of(Shapes(model, full, run, target), mix);
  return result;
}

MemoryPlan make_memory_plan(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, int64_t element_bytes,
                            int64_t budget_bytes) {
  return make_memory_plan(model, config, run, PlanTarget{PlanTarget::Device::cpu, element_bytes, budget_bytes});
}

int64_t largest_context(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  constexpr int64_t kStep = 256;
  int64_t low = 0, high = (int64_t{1} << 24) / kStep;  // in steps; peak grows with the length
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (fits_at(model, config, run, target, middle * kStep))
      low = middle;
    else
      high = middle - 1;
  }
  return low * kStep;
}

}  // namespace longlora
