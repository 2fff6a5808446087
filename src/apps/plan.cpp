// longlora-train plan: memory, time and FLOPs from shapes alone.
#include <fmt/format.h>

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

/// A device from the flags, or this machine's. --host-memory alone plans for a CPU; beside a device it is what may be offloaded to.
PlanTarget target_of(const PlanFlags& flags, const TrainConfig& config) {
  if (flags.device_bytes > 0) return {PlanTarget::Device::gpu, 2, flags.device_bytes, config.memory.host_budget.value_or(0)};
  const ComputeDevice device = flags.host_bytes > 0 ? ComputeDevice{} : choose_device(config.device);
  return plan_target(device, config, resolve_compute(config, device));
}

Rates rates_of(const PlanFlags& flags, const PlanTarget& target) {
  const DeviceKind kind = target.device == PlanTarget::Device::gpu ? DeviceKind::cuda : DeviceKind::cpu;
  Rates rates = flags.rates.empty() ? default_rates(kind) : read_rates(flags.rates);
  if (flags.link_gbytes > 0) rates.peers = 1e9 * flags.link_gbytes;
  return rates;
}

struct Question {
  const PlanFlags& flags;
  TrainConfig config;
  const ModelConfig& model;
  PlanTarget target;
  Rates rates;

  RunPlan run() const { return make_run_plan(config, model, flags.ranks / config.dist.sequence_parallel); }
  PlanReport answer(const LongestContext& longest) const {
    const RunPlan plan = run();
    const MemoryPlan memory = make_memory_plan(model, config, plan, target);
    PlanReport report = report_plan(model, config, plan, target, memory, rates);
    report.longest = longest;
    report.link_gbytes = flags.link_gbytes;
    return report;
  }
  LongestContext longest() const {
    if (!flags.max_context) return {};
    LongestContext longest{.tokens = largest_context(model, config, run(), target)};
    if (target.device == PlanTarget::Device::cpu || target.host_budget_bytes == 0) return longest;
    PlanTarget alone = target;
    alone.host_budget_bytes = 0;
    longest.without_host = largest_context(model, config, run(), alone);
    return longest;
  }
};

/// A length that does not fit is a row, not the end of the table.
PlanRow row_of(Question question, int64_t length, const LongestContext& longest) {
  PlanRow row{.sequence_length = length, .longest = longest};
  question.config.data.sequence_length = length;
  try {
    row.plan = question.answer(longest);
  } catch (const Error& error) {
    if (error.kind != ErrorKind::memory) throw;
    row.refused = error.what_happened;
  }
  return row;
}

int plan(const PlanFlags& flags) {
  TrainConfig config = load_config(sources_of(flags.config)).config;
  const int64_t parts = config.dist.sequence_parallel;
  LONGLORA_CHECK(flags.ranks % parts == 0, config, fmt::format("{} ranks, {} of them share a sequence", flags.ranks, parts), "--ranks",
                 fmt::format("use a multiple of dist.sequence_parallel, as --ranks {}", (flags.ranks / parts + 1) * parts));
  if (flags.host_bytes > 0) config.memory.host_budget = flags.host_bytes;
  const PlanTarget target = target_of(flags, config);
  const BaseModel base(config.model.path, false);
  const Question question{flags, config, base.config, target, rates_of(flags, target)};
  const LongestContext longest = question.longest();
  if (flags.table.empty()) {
    const PlanReport report = question.answer(longest);
    print_out(flags.json ? plan_json(report) : plan_text(report));
    return 0;
  }
  std::vector<PlanRow> rows;
  for (const int64_t length : flags.table) rows.push_back(row_of(question, length, longest));
  print_out(flags.json ? plan_table_json(rows) : plan_table_text(rows));
  return 0;
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
  add_memory("--device-memory", flags->device_bytes, "memory of a GPU to plan for, bf16: GiB, or like 80GB");
  add_memory("--host-memory", flags->host_bytes,
             "host memory the run may use, beside a GPU what offloaded layers may take: GiB, or like 200GB");
  command->add_option("--ranks", flags->ranks, "ranks to plan for; bytes are those of one")->check(CLI::PositiveNumber);
  command->add_option("--link-gbytes", flags->link_gbytes, "GB/s that a rank receives from its peers: says what hides a gather of weights")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--rates", flags->rates,
      "rates of the machine for the predicted time: a file of doctor --rates, or machine.json of gpu_check; otherwise assumed");
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
