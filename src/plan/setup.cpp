#include "plan/setup.h"

#include <fmt/format.h>

#include <algorithm>

#include "plan/costs.h"

namespace longlora::plan {
namespace {

Freedom freedom_of(const TrainConfig::Memory& memory, const PlanTarget& target) {
  Freedom freedom;
  switch (memory.policy) {
    case MemoryPolicy::automatic:
      if (target.device == PlanTarget::Device::gpu) freedom.offload = Offload::surplus;  // to a CPU it is the same memory
      break;
    case MemoryPolicy::save_all:
      freedom.keep = KeepPolicy::save_all;
      break;
    case MemoryPolicy::save_attention:
      freedom.keep = KeepPolicy::save_attention;
      break;
    case MemoryPolicy::checkpoint:
      freedom.keep = KeepPolicy::checkpoint;
      break;
    case MemoryPolicy::checkpoint_offload:
      freedom.keep = KeepPolicy::checkpoint;
      freedom.offload = Offload::all;
      break;
  }
  if (memory.halo_streaming == HaloStreaming::automatic) freedom.streaming = Streaming::where_needed;
  if (memory.halo_streaming == HaloStreaming::on) freedom.streaming = Streaming::always;
  return freedom;
}

}  // namespace

Setup::Setup(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& t)
    : target(t),
      shapes(model, config, run, t),
      training(training_pass(model, config, run, t)),
      evaluations(evaluation_passes(model, config, run, t)),
      freedom(freedom_of(config.memory, t)) {
  check_streaming(config, run);
  const auto step_of = [&](const TrainConfig& c) {
    return step_shape(model, c, run, t.device == PlanTarget::Device::gpu, t.element_bytes, shapes.weight_ranks);
  };
  TrainConfig all_full = config;
  all_full.attention.kind = AttentionKind::full;
  training_step = step_of(config);
  full_step = step_of(all_full);
  if (config.attention.full_steps > 0 && config.attention.kind != AttentionKind::full) full = full_attention_pass(model, config, run, t);
}

Search Setup::search(const PassShape& pass, const LayerCosts& costs) const {
  Freedom f = freedom;
  if (pass.layer.block == 0) f.streaming = Streaming::never;
  return Search(pass.layer, pass.loss, shapes.layers, costs, f);
}

LayerCosts Setup::costs(const PassShape& pass, const Rates& rates) const {
  return layer_costs(full && pass.kind == AttentionKind::full ? full_step : training_step, rates);
}

ActivationPeak Setup::evaluation_peak() const {
  ActivationPeak most;
  for (const PassShape& pass : evaluations) {
    const ActivationPeak peak = longlora::evaluation_peak(pass.layer, shapes.layers, pass.loss);
    if (peak.total() > most.total()) most = peak;
  }
  return most;
}

int64_t Setup::offloaded_bytes(const PassShape& pass) const {
  if (freedom.offload != Offload::all) return 0;
  const std::vector<LayerPolicy> all(static_cast<size_t>(shapes.layers), LayerPolicy(KeepPolicy::checkpoint, false, true));
  return longlora::offloaded_bytes(pass.layer, all);
}

Limits Setup::limits() const {
  const int64_t room = target.budget_bytes - shapes.fixed_bytes();
  if (target.device == PlanTarget::Device::gpu) return {room, target.host_budget_bytes};
  const int64_t offloaded = std::max(offloaded_bytes(training), full ? offloaded_bytes(*full) : 0);
  return {room - offloaded, offloaded};
}

Need Setup::need() const {
  const int64_t offloaded = std::max(offloaded_bytes(training), full ? offloaded_bytes(*full) : 0);
  const bool gpu = target.device == PlanTarget::Device::gpu;
  const int64_t host_room = freedom.offload == Offload::all ? offloaded : gpu ? target.host_budget_bytes : 0;
  int64_t arena = std::max(search(training).least_arena_bytes(host_room), evaluation_peak().total());
  if (full) arena = std::max(arena, search(*full).least_arena_bytes(host_room));
  const int64_t bytes = shapes.fixed_bytes() + arena;
  return gpu ? Need{bytes, offloaded} : Need{bytes + offloaded, 0};
}

TrainConfig resolved(const ModelConfig& model, TrainConfig config, const RunPlan& run, const PlanTarget& target) {
  if (config.dist.shard_weights != ShardWeights::automatic) return config;
  config.dist.shard_weights = ShardWeights::none;
  if (run.ranks * config.dist.sequence_parallel == 1) return config;
  const Need whole = Setup(model, config, run, target).need();
  if (whole.within(target)) return config;
  TrainConfig shared = config;
  shared.dist.shard_weights = ShardWeights::frozen;
  const Need parts = Setup(model, shared, run, target).need();
  return parts.bytes < whole.bytes ? shared : config;  // two layers are whole besides: shallow models gain nothing
}

Need need_of(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  return Setup(model, resolved(model, config, run, target), run, target).need();
}

RunPlan with_length(const TrainConfig& config, RunPlan run, int64_t sequence_length) {
  const int64_t before = run.sequence_length;
  run.sequence_length = sequence_length;
  if (before > 0) run.tokens_per_step = run.tokens_per_step / before * sequence_length;
  if (config.attention.kind != AttentionKind::full) run.group = resolve_group(config.attention, sequence_length);
  return run;
}

std::string gib_text(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

std::string budget_key(const PlanTarget& target) {
  return target.device == PlanTarget::Device::cpu ? "memory.host_budget" : "memory.device_budget";
}

}  // namespace longlora::plan
