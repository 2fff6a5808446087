// longlora-train plan: memory and FLOPs from shapes alone.
#include <fmt/format.h>

#include "apps/commands.h"
#include "apps/sources.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/train/environment.h"
#include "longlora/train/prepare.h"

namespace longlora::apps {
namespace {

struct PlanFlags {
  ConfigFlags config;
  double device_memory_gib = 0, host_memory_gib = 0;
  int64_t ranks = 1;
  double link_gbytes = 0;
  bool max_context = false, json = false;
};

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

PlanTarget target_of(const PlanFlags& flags, const TrainConfig& config) {
  if (flags.device_memory_gib > 0) {
    const int64_t host =
        flags.host_memory_gib > 0 ? static_cast<int64_t>(flags.host_memory_gib * kGib) : config.memory.host_budget.value_or(0);
    return {PlanTarget::Device::gpu, 2, static_cast<int64_t>(flags.device_memory_gib * kGib), host};
  }
  const ComputeDevice device = flags.host_memory_gib > 0 ? ComputeDevice{} : choose_device(config.device);
  PlanTarget target = plan_target(device, config, resolve_compute(config, device));
  if (flags.host_memory_gib > 0) target.budget_bytes = static_cast<int64_t>(flags.host_memory_gib * kGib);
  return target;
}

std::string bytes_json(const std::vector<std::pair<std::string, int64_t>>& parts) {
  std::string text;
  for (const auto& [name, bytes] : parts) text += (text.empty() ? "" : ", ") + json_quote(name) + ": " + std::to_string(bytes);
  return "{" + text + "}";
}

/// Nothing is known of links and devices but what the user says.
double gather_seconds(const MemoryPlan& plan, double link_gbytes) { return static_cast<double>(plan.gather_bytes) / (1e9 * link_gbytes); }

std::string gather_json(const MemoryPlan& plan, double link_gbytes) {
  if (plan.weight_ranks == 1) return "null";
  return fmt::format("{{\"bytes\": {}, \"layer_forward_flops\": {}, \"bytes_per_flop\": {}, \"seconds\": {}}}", plan.gather_bytes,
                     json_number(plan.layer_forward_flops), json_number(static_cast<double>(plan.gather_bytes) / plan.layer_forward_flops),
                     link_gbytes > 0 ? json_number(gather_seconds(plan, link_gbytes)) : "null");
}

std::string ranks_text(const MemoryPlan& plan, int64_t ranks, double link_gbytes) {
  if (ranks == 1) return "";
  const auto parts = [](int64_t count) { return count > 1 ? fmt::format("in {} parts", count) : std::string("whole on each"); };
  std::string text = fmt::format("ranks      {}; frozen layers {}, masters and moments {}; bytes are those of one rank\n", ranks,
                                 parts(plan.weight_ranks), parts(plan.state_ranks));
  if (plan.weight_ranks == 1) return text;
  text += fmt::format("gather     {} a layer against {:.2f} TFLOP forward: {:.3g} bytes a FLOP, forward and once more backward\n",
                      human_bytes(static_cast<uint64_t>(plan.gather_bytes)), plan.layer_forward_flops / 1e12,
                      static_cast<double>(plan.gather_bytes) / plan.layer_forward_flops);
  if (link_gbytes > 0) {
    const double seconds = gather_seconds(plan, link_gbytes);
    text += fmt::format("link       {:.4g} GB/s: {:.3g} ms a layer, hidden where a device computes below {:.4g} TFLOP/s\n", link_gbytes,
                        1e3 * seconds, plan.layer_forward_flops / seconds / 1e12);
  }
  return text;
}

std::string plan_json(const MemoryPlan& plan, const RunPlan& run, const ParameterCounts& counts, int64_t max_context,
                      const PlanFlags& flags) {
  std::string layers;
  for (const LayerPolicy& policy : plan.layer_policy) layers += (layers.empty() ? "" : ", ") + json_quote(name_of(policy));
  return fmt::format(
      "{{\"policy\": {}, \"layer_policy\": [{}], \"sequence_length\": {}, \"group\": {}, \"parameters\": {{\"total\": {}, \"trainable\": "
      "{}, "
      "\"lora\": {}, \"norms\": {}, \"embeddings\": {}, \"head\": {}, \"projections\": {}}}, \"device_bytes\": {}, \"host_bytes\": {}, "
      "\"budget_bytes\": {}, \"row_tile\": {}, \"flops\": {{\"model\": {}, \"hardware\": {}}}, \"ranks\": {}, \"weight_ranks\": {}, "
      "\"state_ranks\": {}, \"gather\": {}, \"max_context\": {}}}\n",
      json_quote(plan.policy_name()), layers, run.sequence_length, run.group, counts.total, counts.trainable, counts.lora, counts.norms,
      counts.embeddings, counts.head, counts.projections, bytes_json(plan.device_bytes), bytes_json(plan.host_bytes), plan.budget_bytes,
      plan.row_tile, json_number(plan.flops.model), json_number(plan.flops.hardware), flags.ranks, plan.weight_ranks, plan.state_ranks,
      gather_json(plan, flags.link_gbytes), max_context > 0 ? std::to_string(max_context) : "null");
}

std::string plan_text(const MemoryPlan& plan, const RunPlan& run, const ParameterCounts& counts, int64_t max_context,
                      const PlanFlags& flags) {
  const auto size = [](int64_t bytes) { return human_bytes(static_cast<uint64_t>(bytes)); };
  std::string text = fmt::format("{} peak {} of {} ({})\n", plan.on_gpu() ? "device" : "host", size(plan.peak_bytes()),
                                 size(plan.budget_bytes), plan.peak_name());
  for (const auto& [name, bytes] : plan.on_gpu() ? plan.device_bytes : plan.host_bytes) {
    if (bytes > 0) text += fmt::format("  {:<24}{:>12}\n", name, size(bytes));
  }
  text += fmt::format("parameters {} in all, {} trained\n", counts.total, counts.trainable);
  if (plan.on_gpu() && plan.host_budget_bytes > 0)
    text += fmt::format("host       {} of {}\n", size(plan.offload_host_bytes), size(plan.host_budget_bytes));
  text += "policy     " + plan.policy_summary() + "\n";
  if (!plan.next.empty()) text += "next       " + plan.next + "\n";
  if (plan.stream_block > 0)
    text += fmt::format("streaming  blocks of {} tokens{}\n", plan.stream_block,
                        plan.stream_keeps_bits ? "" : ", cut inside tiles of attention: on and off may differ in last bits");
  text += fmt::format("rope       {}\n", run.rope.summary());
  text += fmt::format("attention  group {} tokens of {}\n", run.group, run.sequence_length);
  text += fmt::format("FLOPs      {:.2f} G per token of the model, {:.2f} G with recomputation\n", plan.flops.model / 1e9,
                      plan.flops.hardware / 1e9);
  text += ranks_text(plan, flags.ranks, flags.link_gbytes);
  if (max_context > 0) text += fmt::format("largest context: {} tokens\n", max_context);
  return text;
}

int plan(const PlanFlags& flags) {
  const LoadedConfig loaded = load_config(sources_of(flags.config));
  const TrainConfig& config = loaded.config;
  const int64_t parts = config.dist.sequence_parallel;
  LONGLORA_CHECK(flags.ranks % parts == 0, config, fmt::format("{} ranks, {} of them share a sequence", flags.ranks, parts), "--ranks",
                 fmt::format("use a multiple of dist.sequence_parallel, as --ranks {}", (flags.ranks / parts + 1) * parts));
  const BaseModel base(config.model.path, false);
  const RunPlan run = make_run_plan(config, base.config, flags.ranks / parts);
  const PlanTarget target = target_of(flags, config);
  const ParameterCounts counts = count_parameters(base.config, config.tuning);
  const int64_t max_context = flags.max_context ? largest_context(base.config, config, run, target) : 0;
  const MemoryPlan memory = make_memory_plan(base.config, config, run, target);
  print_out(flags.json ? plan_json(memory, run, counts, max_context, flags) : plan_text(memory, run, counts, max_context, flags));
  return 0;
}

}  // namespace

void add_plan(Program& p) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = add_command(p, "plan", "predicts memory by component, FLOPs and policy; reads config.json only",
                                  "longlora-train plan -c configs/llama2_7b_32k.yaml --device-memory 76 --max-context");
  add_config_flags(*command, flags->config);
  command->add_option("--device-memory", flags->device_memory_gib, "GiB of a GPU to plan for, bf16")->check(CLI::PositiveNumber);
  command->add_option("--host-memory", flags->host_memory_gib, "GiB of host memory the run may use")->check(CLI::PositiveNumber);
  command->add_option("--ranks", flags->ranks, "ranks to plan for; bytes are those of one")->check(CLI::PositiveNumber);
  command->add_option("--link-gbytes", flags->link_gbytes, "GB/s that a rank receives from its peers: says what hides a gather of weights")
      ->check(CLI::PositiveNumber);
  command->add_flag("--max-context", flags->max_context, "solve for the longest sequence that fits");
  command->add_flag("--json", flags->json, "machine form");
  command->callback([&p, flags] { p.action = [flags] { return plan(*flags); }; });
}

}  // namespace longlora::apps
