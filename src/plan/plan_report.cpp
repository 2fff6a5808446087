#include "longlora/plan/plan_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

double gib(int64_t bytes) { return static_cast<double>(bytes) / kGib; }
std::string size(int64_t bytes) { return human_bytes(static_cast<uint64_t>(bytes)); }

std::string bytes_json(const std::vector<std::pair<std::string, int64_t>>& parts) {
  std::string text;
  for (const auto& [name, bytes] : parts) text += (text.empty() ? "" : ", ") + json_quote(name) + ": " + std::to_string(bytes);
  return "{" + text + "}";
}

std::string number_or_null(int64_t n) { return n > 0 ? std::to_string(n) : "null"; }
std::string or_null(const std::optional<int64_t>& n) { return n ? std::to_string(*n) : "null"; }

std::string longest_fields(const LongestContext& longest) {
  return fmt::format("\"max_context\": {}, \"max_context_without_host\": {}", or_null(longest.tokens), or_null(longest.without_host));
}

std::string_view device_name(const PlanTarget& t) { return t.device == PlanTarget::Device::gpu ? "cuda" : "cpu"; }
std::string_view dtype_name(const PlanTarget& t) { return t.element_bytes == 2 ? "bf16" : "fp32"; }
std::string_view attention_name(AttentionKind kind) {
  return kind == AttentionKind::full ? "full" : kind == AttentionKind::s2 ? "s2" : "s2_wrap";
}
std::string_view peak_name(PeakKind kind) {
  return kind == PeakKind::printed ? "printed" : kind == PeakKind::measured ? "measured" : "assumed";
}

double gather_seconds(const PlanReport& p) { return static_cast<double>(p.memory.gather_bytes) / (1e9 * p.link_gbytes); }
double gather_ratio(const MemoryPlan& plan) { return static_cast<double>(plan.gather_bytes) / plan.layer_forward_flops; }

std::string gather_json(const PlanReport& p) {
  if (p.memory.weight_ranks == 1) return "null";
  return fmt::format("{{\"bytes\": {}, \"layer_forward_flops\": {}, \"bytes_per_flop\": {}, \"seconds\": {}}}", p.memory.gather_bytes,
                     json_number(p.memory.layer_forward_flops), json_number(gather_ratio(p.memory)),
                     p.link_gbytes > 0 ? json_number(gather_seconds(p)) : "null");
}

std::string time_json(const StepTime& t) {
  return fmt::format(
      "{{\"total\": {}, \"products\": {}, \"attention\": {}, \"elementwise\": {}, \"exposed_copies\": {}, \"hidden_copies\": {}, "
      "\"exchange\": {}, \"optimizer\": {}}}",
      json_number(t.total()), json_number(t.products), json_number(t.attention), json_number(t.elementwise), json_number(t.copies),
      json_number(t.hidden_copies), json_number(t.exchange), json_number(t.optimizer));
}

std::string rates_json(const Rates& r) {
  return fmt::format(
      "{{\"source\": {}, \"products\": {}, \"attention\": {}, \"elementwise\": {}, \"link\": {}, \"peers\": {}, \"peak\": {}, "
      "\"peak_source\": "
      "\"{}\"}}",
      json_quote(r.source), json_number(r.products), json_number(r.attention), json_number(r.elementwise), json_number(r.link),
      r.peers > 0 ? json_number(r.peers) : "null", json_number(r.peak), peak_name(r.peak_kind));
}

/// The fields of a plan without braces.
std::string memory_fields(const PlanReport& p) {
  const MemoryPlan& plan = p.memory;
  const ParameterCounts& c = p.counts;
  std::string layers;
  for (const LayerPolicy& policy : plan.layer_policy) layers += (layers.empty() ? "" : ", ") + json_quote(name_of(policy));
  return fmt::format(
      "\"policy\": {}, \"layer_policy\": [{}], \"sequence_length\": {}, \"group\": {}, \"parameters\": {{\"total\": {}, \"trainable\": {}, "
      "\"lora\": {}, \"norms\": {}, \"embeddings\": {}, \"head\": {}, \"projections\": {}}}, \"device_bytes\": {}, \"host_bytes\": {}, "
      "\"budget_bytes\": {}, \"row_tile\": {}, \"flops\": {{\"model\": {}, \"hardware\": {}}}, \"ranks\": {}, \"weight_ranks\": {}, "
      "\"state_ranks\": {}, \"gather\": {}, \"device\": \"{}\", \"dtype\": \"{}\", \"attention\": \"{}\", {}",
      json_quote(plan.policy_name()), layers, p.run.sequence_length, p.run.group, c.total, c.trainable, c.lora, c.norms, c.embeddings,
      c.head, c.projections, bytes_json(plan.device_bytes), bytes_json(plan.host_bytes), plan.budget_bytes, plan.row_tile,
      json_number(plan.flops.model), json_number(plan.flops.hardware), p.ranks, plan.weight_ranks, plan.state_ranks, gather_json(p),
      device_name(p.target), dtype_name(p.target), attention_name(p.attention), longest_fields(p.longest));
}

std::string time_fields(const PlanReport& p) {
  return fmt::format(
      "\"policy_summary\": {}, \"peak\": {{\"bytes\": {}, \"moment\": {}}}, \"host_budget_bytes\": {}, \"loss_chunk\": {}, "
      "\"arena_bytes\": {}, \"offload_host_bytes\": {}, \"stream_block\": {}, \"next\": {}, "
      "\"tokens_per_step\": {}, \"step_seconds\": {}, \"tokens_per_second\": {}, \"mfu\": {}, \"hfu\": {}, \"rates\": {}, "
      "\"full_attention_step_seconds\": {}, \"search_rates\": {}, \"steps\": {}, \"run_seconds\": {}",
      json_quote(p.memory.policy_summary()), p.memory.peak_bytes(), json_quote(p.memory.peak_name()),
      number_or_null(p.memory.host_budget_bytes), p.memory.loss_chunk, p.memory.arena_bytes, p.memory.offload_host_bytes,
      p.memory.stream_block, p.memory.next.empty() ? "null" : json_quote(p.memory.next), p.run.tokens_per_step, time_json(p.time),
      json_number(p.time.tokens_per_second), json_number(p.time.mfu), json_number(p.time.hfu), rates_json(p.rates),
      p.full_attention_time ? time_json(*p.full_attention_time) : "null", json_quote(p.memory.search_rates), number_or_null(p.steps),
      p.steps > 0 ? json_number(p.run_seconds()) : "null");
}

/// "weights 12.6 | kept activations 57.7", in GiB; below 0.0005 left out.
std::string components(const std::vector<std::pair<std::string, int64_t>>& parts) {
  std::string text;
  for (auto [name, bytes] : parts) {
    if (name == "total" || gib(bytes) < 0.0005) continue;
    std::ranges::replace(name, '_', ' ');
    text += fmt::format("{}{} {:.{}f}", text.empty() ? "" : " | ", name, gib(bytes), gib(bytes) < 0.05 ? 3 : 1);
  }
  return text.empty() ? "nothing above a megabyte" : text;
}

std::string ranks_text(const PlanReport& p) {
  const MemoryPlan& plan = p.memory;
  if (p.ranks == 1) return "";
  const auto parts = [](int64_t count) { return count > 1 ? fmt::format("in {} parts", count) : std::string("whole on each"); };
  std::string text = fmt::format("ranks      {}; frozen layers {}, masters and moments {}; bytes are those of one rank\n", p.ranks,
                                 parts(plan.weight_ranks), parts(plan.state_ranks));
  if (p.rates.peers <= 0)
    text +=
        "exchange   between ranks not counted: no rate of the link between ranks, which --link-gbytes or \"peers\" in the rates gives\n";
  if (plan.weight_ranks == 1) return text;
  text += fmt::format("gather     {} a layer against {:.2f} TFLOP forward: {:.3g} bytes a FLOP, forward and once more backward\n",
                      size(plan.gather_bytes), plan.layer_forward_flops / 1e12, gather_ratio(plan));
  if (p.link_gbytes > 0) {
    const double seconds = gather_seconds(p);
    text += fmt::format("link       {:.4g} GB/s: {:.3g} ms a layer, hidden where a device computes below {:.4g} TFLOP/s\n", p.link_gbytes,
                        1e3 * seconds, plan.layer_forward_flops / seconds / 1e12);
  }
  return text;
}

std::string memory_peak_text(const MemoryPlan& plan) {
  std::string text = fmt::format("{} peak {} of {} ({})", plan.on_gpu() ? "device" : "host", size(plan.peak_bytes()),
                                 size(plan.budget_bytes), plan.peak_name());
  if (plan.on_gpu() && plan.host_budget_bytes > 0)
    text += fmt::format("   host {} of {}", size(plan.offload_host_bytes), size(plan.host_budget_bytes));
  return text + fmt::format("\n  GiB: {}\n", components(plan.on_gpu() ? plan.device_bytes : plan.host_bytes));
}

std::string streaming_text(const MemoryPlan& plan) {
  if (plan.stream_block == 0) return "";
  return fmt::format("streaming  blocks of {} tokens{}\n", plan.stream_block,
                     plan.stream_keeps_bits ? "" : ", cut inside tiles of attention: on and off may differ in last bits");
}

std::string rates_text(const Rates& r) {
  return fmt::format("products {:.4g}, attention {:.4g}, peak {:.4g} TFLOP/s; memory {:.4g}, link {:.4g} GB/s; {}", r.products / 1e12,
                     r.attention / 1e12, r.peak / 1e12, r.elementwise / 1e9, r.link / 1e9, r.source);
}

/// "GPU, bf16, 76.0 GiB (--device-memory), host memory 0 B (--host-memory)"
std::string target_text(const PlanReport& p) {
  const auto from = [](const std::string& who) { return who.empty() ? "" : " (" + who + ")"; };
  const bool gpu = p.target.device == PlanTarget::Device::gpu;
  std::string text =
      fmt::format("{}, {}, {}{}", gpu ? "GPU" : "CPU", dtype_name(p.target), size(p.target.budget_bytes), from(p.budget_source));
  if (gpu) text += fmt::format(", host memory {:.1f} GiB{}", gib(p.target.host_budget_bytes), from(p.host_source));
  return text;
}

std::string attention_text(const PlanReport& p) {
  if (p.attention == AttentionKind::full) return fmt::format("full, {} tokens", p.run.sequence_length);
  return fmt::format("{}, group {} tokens of {}", attention_name(p.attention), p.run.group, p.run.sequence_length);
}

/// "12.5 minutes", "8.7 days"
std::string duration(double seconds) {
  if (seconds < 120) return fmt::format("{:.3g} seconds", seconds);
  if (seconds < 120 * 60) return fmt::format("{:.1f} minutes", seconds / 60);
  return seconds < 48 * 3600 ? fmt::format("{:.1f} hours", seconds / 3600) : fmt::format("{:.1f} days", seconds / 86400);
}

std::string run_text(const PlanReport& p) {
  if (p.steps == 0) return "";
  std::string text = fmt::format("run        {:.3g} s x {} steps", p.time.total(), p.steps - p.full_steps);
  if (p.full_steps > 0) text += fmt::format(" + {:.3g} s x {} with full attention", p.full_attention_time->total(), p.full_steps);
  return text + fmt::format(" = {}, without evaluations and checkpoints\n", duration(p.run_seconds()));
}

}  // namespace

double PlanReport::run_seconds() const {
  const double full = full_attention_time ? full_attention_time->total() : 0;
  return static_cast<double>(steps - full_steps) * time.total() + static_cast<double>(full_steps) * full;
}

std::string longest_text(const LongestContext& longest) {
  if (!longest.tokens) return "";
  if (*longest.tokens == 0) return "largest context: none\n";
  std::string text = fmt::format("largest context: {} tokens", *longest.tokens);
  if (longest.without_host && *longest.without_host != *longest.tokens)
    text += *longest.without_host > 0 ? fmt::format(", {} without host memory", *longest.without_host) : ", none without host memory";
  return text + "\n";
}

PlanReport report_plan(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target,
                       const MemoryPlan& memory, const Rates& rates) {
  StepShape shape = step_shape(model, config, run, target.device == PlanTarget::Device::gpu, target.element_bytes, memory.weight_ranks);
  PlanReport report{.run = run,
                    .memory = memory,
                    .counts = count_parameters(model, config.tuning),
                    .rates = rates,
                    .time = predict_step_time(shape, memory.layer_policy, rates),
                    .ranks = shape.ranks,
                    .target = target,
                    .attention = config.attention.kind,
                    .steps = run.total_steps > 0 ? run.total_steps : config.train.steps.value_or(0)};
  if (config.attention.full_steps > 0 && config.attention.kind != AttentionKind::full) {
    TrainConfig full = config;
    full.attention.kind = AttentionKind::full;
    shape.attention_flops = step_shape(model, full, run, shape.layer.on_device, target.element_bytes).attention_flops;
    report.full_attention_time = predict_step_time(shape, memory.full_layer_policy, rates);
    report.full_steps = std::min(config.attention.full_steps, report.steps);
  }
  return report;
}

std::string plan_json(const PlanReport& p) { return "{" + memory_fields(p) + ", " + time_fields(p) + "}\n"; }

std::string plan_text(const PlanReport& p) {
  std::string text = memory_peak_text(p.memory);
  text += "for        " + target_text(p) + "\n";
  text += fmt::format("parameters {} in all, {} trained\n", p.counts.total, p.counts.trainable);
  text += "policy     " + p.memory.policy_summary() + "\n" + streaming_text(p.memory);
  text += fmt::format("rope       {}\n", p.run.rope.summary());
  text += "attention  " + attention_text(p) + "\n";
  text += fmt::format("FLOPs      {:.2f} G per token of the model, {:.2f} G with recomputation\n", p.memory.flops.model / 1e9,
                      p.memory.flops.hardware / 1e9);
  text += fmt::format("step       {} tokens in {}\n", p.run.tokens_per_step, step_time_text(p.time));
  if (p.full_attention_time) text += fmt::format("full       with full attention {}\n", step_time_text(*p.full_attention_time));
  text += run_text(p);
  text += "rates      " + rates_text(p.rates) + "\n";
  text += ranks_text(p);
  if (!p.memory.next.empty()) text += "next       " + p.memory.next + "\n";
  return text + longest_text(p.longest);
}

std::string refusal_json(const PlanRow& row) {
  return fmt::format("{{\"sequence_length\": {}, \"refused\": {}, {}}}", row.sequence_length, json_quote(row.refused),
                     longest_fields(row.longest));
}

std::string plan_table_json(const std::vector<PlanRow>& rows) {
  std::string text;
  for (const PlanRow& row : rows) {
    if (!text.empty()) text += ",\n ";
    if (row.refused.empty())
      text += "{" + memory_fields(row.plan) + ", " + time_fields(row.plan) + "}";
    else
      text += refusal_json(row);
  }
  return "[" + text + "]\n";
}

std::string plan_table_text(const std::vector<PlanRow>& rows) {
  std::string text = fmt::format("{:>9} {:>11} {:>9} {:>10} {:>10} {:>6} {:>6}  policy\n", "tokens", "peak GiB", "host GiB", "s a step",
                                 "tok/s", "MFU %", "HFU %");
  for (const PlanRow& row : rows) {
    if (!row.refused.empty()) {
      text += fmt::format("{:>9} {}: {}\n", row.sequence_length, row.is_misconfigured ? "refused" : "does not fit", row.refused);
      continue;
    }
    const StepTime& t = row.plan.time;
    const MemoryPlan& plan = row.plan.memory;
    text += fmt::format("{:>9} {:>11.1f} {:>9.1f} {:>10.4g} {:>10.4g} {:>6.0f} {:>6.0f}  {}\n", row.sequence_length, gib(plan.peak_bytes()),
                        gib(plan.offload_host_bytes), t.total(), t.tokens_per_second, 100 * t.mfu, 100 * t.hfu, plan.policy_summary());
  }
  if (!rows.empty()) text += longest_text(rows.front().longest);
  const auto planned = std::ranges::find_if(rows, [](const PlanRow& row) { return row.refused.empty(); });
  if (planned == rows.end()) return text;
  return text + "for: " + target_text(planned->plan) + "\nrates: " + rates_text(planned->plan.rates) + "\n";
}

}  // namespace longlora
