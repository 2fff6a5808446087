#include "longlora/plan/memory_plan.h"

#include <algorithm>
#include <optional>

#include "longlora/core/error.h"
#include "longlora/core/host_memory.h"
#include "plan/setup.h"

namespace longlora {
namespace {

using plan::Found;
using plan::gib_text;
using plan::Limits;
using plan::PassShape;
using plan::Search;
using plan::Setup;
using plan::Shapes;

/// One line, before anything is read: needed, available, what to do.
[[noreturn]] void refuse(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target,
                         const plan::Need& need) {
  const bool device_is_short = need.bytes > target.budget_bytes;
  const std::string what = device_is_short ? "needs " + gib_text(need.bytes) + ", " + gib_text(target.budget_bytes) + " may be used"
                                           : "needs " + gib_text(need.host_bytes) + " of the host for offload, " +
                                                 gib_text(target.host_budget_bytes) + " may be used";
  fail(ErrorKind::memory, what, device_is_short ? plan::budget_key(target) : "memory.host_budget",
       plan::remedies(model, config, run, target));
}

int64_t with_total(std::vector<std::pair<std::string, int64_t>>& parts) {
  int64_t total = 0;
  for (const auto& [name, bytes] : parts) total += bytes;
  parts.emplace_back("total", total);
  return total;
}

void fill_bytes(MemoryPlan& result, const Shapes& s) {
  const ActivationPeak& peak = result.peak;
  const bool loss = peak.phase == ActivationPeak::Phase::loss;
  std::vector<std::pair<std::string, int64_t>> parts = {{"weights", s.weight_bytes()},
                                                        {"optimizer_and_gradient", s.state_bytes()},
                                                        {"gradient_tree", s.tree_bytes()},
                                                        {"exchange", s.exchange_bytes()},
                                                        {"runtime", s.runtime_bytes()},
                                                        {"tables", s.table_bytes()},
                                                        {"kept_activations", peak.kept},
                                                        {"hidden_state", peak.hidden},
                                                        {"layer_workspace", loss ? 0 : peak.workspace},
                                                        {"loss_chunk", loss ? peak.workspace : 0},
                                                        {"offload_staging", peak.staging}};
  std::vector<std::pair<std::string, int64_t>> offloaded = {{"offloaded_inputs", result.offload_host_bytes}};
  if (s.gpu) {
    result.device_bytes = std::move(parts);
    result.host_bytes = std::move(offloaded);
  } else {
    parts.insert(parts.end(), offloaded.begin(), offloaded.end());
    result.host_bytes = std::move(parts);
  }
  with_total(result.device_bytes);
  with_total(result.host_bytes);
}

void look(MemoryPlan& result, const ActivationPeak& peak, MemoryPlan::Pass pass) {
  if (peak.total() <= result.peak.total()) return;
  result.peak = peak;
  result.peak_pass = pass;
}

/// "whole layers instead of streamed: does not fit (80.2 GiB)"
std::string next_text(const Search& search, const Found& found, int64_t other_bytes) {
  const std::optional<Found> next = search.next_better(found);
  if (!next) return "";
  std::vector<LayerPolicy> whole = found.policies;
  for (LayerPolicy& policy : whole) policy.streamed = false;
  const bool only_whole = next->policies == whole;
  return (only_whole ? "whole layers instead of streamed" : plan::summary_of(next->policies)) + ": does not fit (" +
         gib_text(other_bytes + next->peak.total()) + ")";
}

void choose_policies(MemoryPlan& result, const Setup& setup, const Rates& rates) {
  const Limits limits = setup.limits();
  const Search search = setup.search(setup.training, setup.costs(setup.training, rates));
  const std::optional<Found> found = search.cheapest(limits);
  LONGLORA_INVARIANT(found);  // Setup::need fits
  result.layer_policy = found->policies;
  result.offload_host_bytes = offloaded_bytes(setup.training.layer, found->policies);
  look(result, found->peak, MemoryPlan::Pass::training);
  if (setup.full) {
    const std::optional<Found> full = setup.search(*setup.full, setup.costs(*setup.full, rates)).cheapest(limits);
    LONGLORA_INVARIANT(full);
    result.full_layer_policy = full->policies;
    result.offload_host_bytes = std::max(result.offload_host_bytes, offloaded_bytes(setup.full->layer, full->policies));
    look(result, full->peak, MemoryPlan::Pass::full_attention);
  }
  look(result, setup.evaluation_peak(), MemoryPlan::Pass::evaluation);
  result.arena_bytes = result.peak.total();
  result.next = next_text(search, *found, setup.target.budget_bytes - limits.arena_bytes);
}

}  // namespace

int64_t MemoryPlan::peak_bytes() const { return (on_gpu() ? device_bytes : host_bytes).back().second; }

std::string MemoryPlan::peak_name() const {
  using Phase = ActivationPeak::Phase;
  const std::string layer = " of layer " + std::to_string(peak.layer);
  const std::string moment = peak.phase == Phase::loss ? "loss" : (peak.phase == Phase::forward ? "forward" : "backward") + layer;
  if (peak_pass == Pass::evaluation) return moment + " in an evaluation";
  return peak_pass == Pass::full_attention ? moment + " in a step with full attention" : moment;
}

std::string MemoryPlan::policy_name() const {
  const bool uniform = std::ranges::all_of(layer_policy, [&](const LayerPolicy& p) { return p == layer_policy.front(); });
  return uniform && !layer_policy.empty() ? name_of(layer_policy.front()) : "mixed";
}

std::string MemoryPlan::policy_summary() const {
  const std::string text = plan::summary_of(layer_policy);
  if (full_layer_policy.empty() || full_layer_policy == layer_policy) return text;
  return text + "; with full attention " + plan::summary_of(full_layer_policy);
}

Rates default_rates(const PlanTarget& target) {
  return default_rates(target.device == PlanTarget::Device::gpu ? DeviceKind::cuda : DeviceKind::cpu,
                       target.element_bytes == 2 ? ComputeType::bf16 : ComputeType::fp32);
}

MemoryPlan make_memory_plan(const ModelConfig& model, const TrainConfig& wanted, const RunPlan& run, const PlanTarget& target,
                            const Rates& rates) {
  const Setup setup(model, plan::resolved(model, wanted, run, target), run, target);
  if (const plan::Need need = setup.need(); !need.within(target)) refuse(model, wanted, run, target, need);
  const Shapes& s = setup.shapes;
  MemoryPlan result{.stream_block = setup.training.layer.block,
                    .search_rates = rates.source,
                    .row_tile = setup.training.layer.row_tile,
                    .loss_chunk = setup.training.loss.chunk_rows,
                    .budget_bytes = target.budget_bytes,
                    .host_budget_bytes = target.host_budget_bytes,
                    .weight_ranks = s.weight_ranks,
                    .state_ranks = s.state_ranks};
  result.stream_keeps_bits = result.stream_block == 0 || plan::block_is_whole_tiles(result.stream_block, model.head_dim, target);
  choose_policies(result, setup, rates);
  fill_bytes(result, s);
  const std::vector<LayerPolicy>& full = result.full_layer_policy.empty() ? result.layer_policy : result.full_layer_policy;
  result.flops = flops_per_token(setup.training_step, result.layer_policy);
  result.full_attention_flops = flops_per_token(setup.full_step, full);
  if (s.weight_ranks > 1) result.gather_bytes = s.parts.layer_bytes() - s.parts.part_bytes();
  result.layer_forward_flops =
      2.0 * static_cast<double>(s.counts.projections / s.layers) * static_cast<double>(setup.training.layer.num_tokens());
  return result;
}

MemoryPlan make_memory_plan(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  return make_memory_plan(model, config, run, target, default_rates(target));
}

MemoryPlan make_memory_plan(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, int64_t element_bytes,
                            int64_t budget_bytes) {
  return make_memory_plan(model, config, run, PlanTarget{PlanTarget::Device::cpu, element_bytes, budget_bytes});
}

int64_t default_host_budget(const std::filesystem::path& root) {
  constexpr int64_t kReserve = int64_t{8} << 30;
  const int64_t available = available_host_memory(root);
  return available > 2 * kReserve ? available - kReserve : available / 2;
}

}  // namespace longlora
