// longlora-train plan: memory, time and FLOPs from shapes alone.
#include <fmt/format.h>

#include <algorithm>

#include "apps/commands.h"
#include "apps/sources.h"
#include "longlora/config/scalar_text.h"
#include "longlora/core/error.h"
#include "longlora/plan/plan_report.h"
#include "longlora/train/environment.h"
#include "longlora/train/prepare.h"

namespace longlora::apps {
namespace {

struct PlanFlags {
  ConfigFlags config;
  int64_t device_bytes = 0, host_bytes = 0;
  int64_t ranks = 1;
  double link_gbytes = 0;
  std::string rates;
  std::vector<int64_t> table;
  bool max_context = false, json = false;
};

constexpr const char* kPlanAGpu = "for a GPU: plan --device-memory 76";

/// What is planned for, and who says so.
struct Target {
  PlanTarget plan;
  std::string budget_source, host_source;
  bool no_gpu_here = false;  // a CPU because this machine has no usable GPU
};

/// A GPU that is described, not present: of the host only what is named.
Target described_gpu(const PlanFlags& flags, const TrainConfig& config) {
  const ComputeDevice gpu{.where = at::kCUDA};
  const bool by_flag = flags.device_bytes > 0;
  return {{.device = PlanTarget::Device::gpu,
           .element_bytes = resolve_compute(config, gpu) == ComputeType::bf16 ? 2 : 4,
           .budget_bytes = by_flag ? flags.device_bytes : *config.memory.device_budget,
           .host_budget_bytes = config.memory.host_budget.value_or(0)},
          by_flag ? "--device-memory" : "memory.device_budget",
          config.memory.host_budget && flags.host_bytes == 0 ? "memory.host_budget" : "--host-memory"};
}

/// A device from the flags, the one that the configuration's budget describes, or this machine's. --host-memory alone plans for a CPU;
/// beside a device it is what may be offloaded to.
Target target_of(const PlanFlags& flags, const TrainConfig& config) {
  if (flags.device_bytes > 0) return described_gpu(flags, config);
  const bool has_budget = config.memory.device_budget && config.device != DeviceKind::cpu;
  const bool for_cpu = flags.host_bytes > 0 && !has_budget;
  const bool names_gpu = has_budget || (config.device == DeviceKind::cuda && !for_cpu);
  const ComputeDevice here = for_cpu ? ComputeDevice{} : choose_device(DeviceKind::automatic);
  if (names_gpu && !here.is_gpu()) {
    if (config.memory.device_budget) return described_gpu(flags, config);
    fail(ErrorKind::config, here.cpu_reason, "device", kPlanAGpu);
  }
  const ComputeDevice device = config.device == DeviceKind::cpu ? ComputeDevice{} : here;
  const std::string host = flags.host_bytes > 0 ? "--host-memory" : config.memory.host_budget ? "memory.host_budget" : "available here";
  const PlanTarget target = plan_target(device, config, resolve_compute(config, device), flags.ranks);
  if (!device.is_gpu()) return {target, host, "", !for_cpu && config.device == DeviceKind::automatic};
  return {target, config.memory.device_budget ? "memory.device_budget" : "free on this card", host};
}

Rates rates_of(const PlanFlags& flags, const PlanTarget& target) {
  Rates rates = default_rates(target);
  if (!flags.rates.empty()) {
    const DeviceKind wanted = rates.device;
    rates = read_rates(flags.rates);
    const auto name = [](DeviceKind kind) { return kind == DeviceKind::cuda ? "a GPU" : "a CPU"; };
    LONGLORA_CHECK(rates.device == wanted, usage,
                   fmt::format("the rates are those of {}, the plan is for {}", name(rates.device), name(wanted)), "--rates",
                   "give rates of that device, or plan for the other one with --device-memory or --host-memory");
  }
  if (flags.link_gbytes > 0) rates.peers = 1e9 * flags.link_gbytes;
  return rates;
}

struct Question {
  const PlanFlags& flags;
  TrainConfig config;
  const ModelConfig& model;
  Target target;
  Rates rates;

  RunPlan run() const { return make_run_plan(config, model, flags.ranks / config.dist.sequence_parallel); }
  PlanReport answer(const LongestContext& longest) const {
    const RunPlan plan = run();
    const MemoryPlan memory = make_memory_plan(model, config, plan, target.plan, rates);
    PlanReport report = report_plan(model, config, plan, target.plan, memory, rates);
    report.longest = longest;
    report.link_gbytes = flags.link_gbytes;
    report.budget_source = target.budget_source;
    report.host_source = target.host_source;
    return report;
  }
  LongestContext longest() const {
    if (!flags.max_context) return {};
    LongestContext longest{.tokens = largest_context(model, config, run(), target.plan)};
    if (target.plan.device == PlanTarget::Device::cpu || target.plan.host_budget_bytes == 0) return longest;
    PlanTarget alone = target.plan;
    alone.host_budget_bytes = 0;
    longest.without_host = largest_context(model, config, run(), alone);
    return longest;
  }
};

/// A length that does not fit, or that the configuration makes impossible, is a row, not the end of the table.
PlanRow row_of(Question question, int64_t length, const LongestContext& longest) {
  PlanRow row{.sequence_length = length, .longest = longest};
  question.config.data.sequence_length = length;
  try {
    row.plan = question.answer(longest);
  } catch (const Error& error) {
    if (error.kind != ErrorKind::memory && error.kind != ErrorKind::config) throw;
    row.is_misconfigured = error.kind == ErrorKind::config;
    row.refused = row.is_misconfigured ? error.what() : error.what_happened;
  }
  return row;
}

int print_one(const Question& question, const LongestContext& longest) {
  const bool json = question.flags.json;
  try {
    const PlanReport report = question.answer(longest);
    print_out(json ? plan_json(report) : plan_text(report));
    return 0;
  } catch (Error& error) {
    if (error.kind != ErrorKind::memory) throw;
    if (question.flags.max_context) {  // the answer to what was asked, before the refusal
      const PlanRow row{.sequence_length = question.config.data.sequence_length, .refused = error.what_happened, .longest = longest};
      print_out(json ? refusal_json(row) + "\n" : longest_text(longest));
    }
    if (question.target.no_gpu_here) error.details.push_back(fmt::format("planned for the CPU of this machine; {}", kPlanAGpu));
    throw;
  }
}

/// A plain configuration error, where every length has one.
int print_table(const Question& question, const LongestContext& longest) {
  std::vector<PlanRow> rows;
  for (const int64_t length : question.flags.table) rows.push_back(row_of(question, length, longest));
  if (std::ranges::all_of(rows, &PlanRow::is_misconfigured)) question.answer(longest);
  print_out(question.flags.json ? plan_table_json(rows) : plan_table_text(rows));
  return 0;
}

int plan(const PlanFlags& flags) {
  TrainConfig config = load_config(sources_of(flags.config)).config;
  const int64_t parts = config.dist.sequence_parallel;
  LONGLORA_CHECK(flags.ranks % parts == 0, config, fmt::format("{} ranks, {} of them share a sequence", flags.ranks, parts), "--ranks",
                 fmt::format("use a multiple of dist.sequence_parallel, as --ranks {}", (flags.ranks / parts + 1) * parts));
  if (flags.host_bytes > 0) config.memory.host_budget = flags.host_bytes;
  const Target target = target_of(flags, config);
  const BaseModel base(config.model.path, false);
  const Question question{flags, config, base.config, target, rates_of(flags, target.plan)};
  const LongestContext longest = question.longest();
  return flags.table.empty() ? print_one(question, longest) : print_table(question, longest);
}

}  // namespace

void add_plan(Program& p) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = add_command(p, "plan", "predicts memory by component, step time, FLOPs and policy; reads config.json only",
                                  "longlora-train plan -c configs/llama2_7b_32k.yaml --device-memory 76 --max-context");
  add_config_flags(*command, flags->config);
  const auto add_memory = [command](const std::string& flag, int64_t& bytes, const std::string& what) {
    command->add_option_function<std::string>(
        flag, [flag, &bytes](const std::string& text) { bytes = size_of_flag(text, Unit::bytes, flag, "GiB"); }, what);
  };
  add_memory("--device-memory", flags->device_bytes, "plan for a GPU: what a run may use of it, GiB or like 76GiB (76 of an 80 GB card)");
  add_memory("--host-memory", flags->host_bytes,
             "host memory that a run may use, GiB or like 200GB; beside a GPU what offloaded inputs may take, 0 without it");
  command->add_option("--ranks", flags->ranks, "ranks to plan for; bytes are those of one")->check(CLI::PositiveNumber);
  command->add_option("--link-gbytes", flags->link_gbytes, "GB/s that a rank receives from its peers: says what hides a gather of weights")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--rates", flags->rates,
      "rates for the predicted time and the choice of policies: a file of doctor --rates, or machine.json of gpu_check; otherwise assumed");
  command
      ->add_option_function<std::vector<std::string>>(
          "--table",
          [flags](const std::vector<std::string>& lengths) {
            for (const std::string& length : lengths) flags->table.push_back(size_of_flag(length, Unit::tokens, "--table"));
          },
          "lengths in tokens, as 8192,32k: a line for each in place of one plan")
      ->delimiter(',');
  command->add_flag("--max-context", flags->max_context, "solve for the longest sequence that fits");
  command->add_flag("--json", flags->json, "machine form");
  command->callback([&p, flags] { p.action = [flags] { return plan(*flags); }; });
}

}  // namespace longlora::apps
