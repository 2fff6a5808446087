#include "longlora/train/memory_report.h"

#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

constexpr std::string_view kTotal = "total", kRuntime = "runtime", kExchange = "exchange";

std::optional<Component> component_named(std::string_view name) {
  for (size_t c = 0; c < kNumComponents; ++c)
    if (name_of(static_cast<Component>(c)) == name) return static_cast<Component>(c);
  return std::nullopt;
}

ComponentBytes planned_components(const std::vector<std::pair<std::string, int64_t>>& parts) {
  ComponentBytes planned;
  for (const auto& [name, bytes] : parts) {
    if (name == kTotal || name == kRuntime) continue;
    planned[component_named(name).value_or(name == kExchange ? Component::other : Component::activations)] += bytes;
  }
  return planned;
}

std::string json_or_null(const std::optional<int64_t>& value) { return value ? std::to_string(*value) : "null"; }
std::string json_or_null(const std::optional<double>& value) { return value ? fmt::format("{:.2f}", *value) : "null"; }

std::string row_json(const MemoryRow& row, const std::string& more) {
  return fmt::format("{{\"name\": {}, \"planned_bytes\": {}, \"measured_bytes\": {}, \"difference_percent\": {}{}}}", json_quote(row.name),
                     row.planned_bytes, json_or_null(row.measured_bytes), json_or_null(row.difference_percent()), more);
}

std::string memory_json(const StepReport& report, const MemoryPlan& plan, bool is_gpu) {
  const MemoryCount& host = report.tensors;
  const std::vector<MemoryRow> rows = memory_rows(plan, host, is_gpu ? std::optional(report.memory_peak_bytes) : std::nullopt);
  std::string components;
  for (const MemoryRow& row : rows) {
    const std::optional<Component> component = component_named(row.name);
    if (!component) continue;
    const std::string own = is_gpu ? "" : fmt::format(", \"own_peak_bytes\": {}", host.own_peak[*component]);
    components += (components.empty() ? "\n    " : ",\n    ") + row_json(row, own);
  }
  return fmt::format(
      "{{\n  \"device\": \"{}\",\n  \"step\": {},\n  \"policy\": {},\n  \"total\": {},\n  \"components\": [{}],\n"
      "  \"host_tensor_peak_bytes\": {},\n  \"large_allocations\": {},\n  \"resident_peak_bytes\": {}\n}}\n",
      is_gpu ? "gpu" : "cpu", report.step, json_quote(plan.policy_summary()), row_json(rows.back(), ""), components, host.peak_bytes,
      host.large_allocations, report.resident_peak_bytes);
}

}  // namespace

std::optional<double> MemoryRow::difference_percent() const {
  if (!measured_bytes || *measured_bytes == 0) return std::nullopt;
  return 100.0 * static_cast<double>(planned_bytes - *measured_bytes) / static_cast<double>(*measured_bytes);
}

std::vector<MemoryRow> memory_rows(const MemoryPlan& plan, const MemoryCount& host, std::optional<int64_t> device_peak_bytes) {
  const ComponentBytes planned = planned_components(device_peak_bytes ? plan.device_bytes : plan.host_bytes);
  std::vector<MemoryRow> rows;
  MemoryRow total{std::string(kTotal), 0, device_peak_bytes.value_or(host.peak_bytes)};
  for (size_t c = 0; c < kNumComponents; ++c) {
    const auto component = static_cast<Component>(c);
    const std::optional<int64_t> measured = device_peak_bytes ? std::nullopt : std::optional(host.at_peak[component]);
    rows.push_back({std::string(name_of(component)), planned[component], measured});
    total.planned_bytes += planned[component];
  }
  rows.push_back(std::move(total));
  return rows;
}

MemoryObserver::MemoryObserver(std::filesystem::path file, const MemoryPlan& plan, bool is_gpu)
    : file_(std::move(file)), plan_(plan), is_gpu_(is_gpu), policy_(plan.layer_policy), full_policy_(plan.full_layer_policy) {}

void MemoryObserver::after_step(const StepReport& report) {
  if (policy_ != plan_.layer_policy || full_policy_ != plan_.full_layer_policy) {
    policy_ = plan_.layer_policy;
    full_policy_ = plan_.full_layer_policy;
    worst_bytes_ = 0;
    return;
  }
  const int64_t peak = is_gpu_ ? report.memory_peak_bytes : report.tensors.peak_bytes;
  if (peak <= worst_bytes_) return;
  worst_bytes_ = peak;
  try {
    write_file_atomic(file_, memory_json(report, plan_, is_gpu_));
  } catch (const Error& error) {
    log_warning("{}", error.what());  // an account never decides how a run ends
  }
}

void fail_out_of_memory(const std::exception& failure, int64_t step, const PlannedMemory& planned) {
  const auto bytes = [](int64_t count) { return human_bytes(static_cast<uint64_t>(count)); };
  const std::string message = failure.what();
  std::string what = "an allocation failed: " + message.substr(0, std::min<size_t>(80, message.find('\n')));
  std::string budget = "lower " + planned.budget_key;
  if (message.find("can't allocate memory") != std::string::npos && memory_count().failed_bytes > 0) {
    const MemoryCount count = memory_count();
    what = bytes(count.failed_bytes) + " could not be allocated beside " + bytes(count.live_bytes_at_failure) + " in use";
    budget = "set " + planned.budget_key + " below " + bytes(count.live_bytes_at_failure + count.failed_bytes);
  }
  what += "; the plan was " + bytes(planned.peak_bytes) + " of " + bytes(planned.budget_bytes);
  fail(ErrorKind::memory, what, step > 0 ? "after step " + std::to_string(step) : "start of the run",
       budget + " or lower data.sequence_length");
}

}  // namespace longlora
