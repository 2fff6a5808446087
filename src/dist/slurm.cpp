#include "dist/slurm.h"

#include <charconv>

#include "dist/endpoint.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr uint64_t kFirstSpecialStep = 0xfffffff0u;  // batch script, interactive shell, extern: steps that are not tasks

uint64_t job_number(const Variables& v, const std::string& name) {
  const std::string text = v.text(name).value_or("");
  uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || problem != std::errc() || end != text.data() + text.size())
    refuse_launch(v.show(name) + " is not a whole number", "start with srun inside an allocation, or unset SLURM_STEP_ID");
  return value;
}

[[noreturn]] void refuse_counts(const Variables& v, const std::string& name) {
  refuse_launch(v.show(name) + " is not a list of counts such as 4(x2),3", "unset it, or start with srun --ntasks-per-node");
}

/// Count of node number `node` in "4(x2),3".
int count_of_node(const Variables& v, const std::string& name, int node) {
  const std::string text = *v.text(name);
  const char *at = text.data(), *end = at + text.size();
  const auto number = [&] {
    int value = 0;
    const auto [next, problem] = std::from_chars(at, end, value);
    if (problem != std::errc() || value < 1 || value > kMaxRanks) refuse_counts(v, name);
    at = next;
    return value;
  };
  for (int64_t nodes = 0;;) {
    const int count = number();
    int repeats = 1;
    if (end - at >= 2 && at[0] == '(' && at[1] == 'x') {
      at += 2;
      repeats = number();
      if (at == end || *at++ != ')') refuse_counts(v, name);
    }
    nodes += repeats;
    if (node < nodes) return count;
    if (at == end || *at++ != ',') refuse_counts(v, name);
  }
}

}  // namespace

bool is_slurm_task(const Variables& v) {
  if (!v.has("SLURM_STEP_ID") || !(v.has("SLURM_PROCID") || v.has("SLURM_NTASKS"))) return false;
  const std::string job = v.text("SLURM_JOB_NAME").value_or("");
  return job != "bash" && job != "interactive" && job_number(v, "SLURM_STEP_ID") < kFirstSpecialStep;
}

std::optional<Named> slurm_local_size(const Variables& v, int tasks, int node) {
  // the step's own list first: SLURM_NTASKS_PER_NODE is a wish of the allocation, and an upper bound under srun -n
  if (v.has("SLURM_STEP_TASKS_PER_NODE")) return Named{"SLURM_STEP_TASKS_PER_NODE", count_of_node(v, "SLURM_STEP_TASKS_PER_NODE", node)};
  if (v.has("SLURM_NTASKS_PER_NODE")) return v.number("SLURM_NTASKS_PER_NODE");
  const std::optional<Named> nodes = v.number(v.has("SLURM_STEP_NUM_NODES") ? "SLURM_STEP_NUM_NODES" : "SLURM_NNODES");
  if (nodes && nodes->value == 1) return Named{"SLURM_NTASKS", tasks};
  return std::nullopt;
}

Endpoint slurm_endpoint(const Variables& v) {
  Endpoint endpoint;
  if (const auto host = v.text("MASTER_ADDR")) {
    endpoint.host = checked_host("MASTER_ADDR", *host);
  } else {
    const char* list = v.has("SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
    const std::optional<std::string> hosts = v.text(list);
    if (!hosts) refuse_launch(v.show("SLURM_JOB_NODELIST") + ": where rank 0 runs is unknown", "export MASTER_ADDR and MASTER_PORT");
    endpoint.host = expand_node_list(*hosts).front();
  }
  if (v.has("MASTER_PORT"))
    endpoint.port = checked_port(*v.number("MASTER_PORT"));
  else
    endpoint.port = static_cast<uint16_t>(20'000 + job_number(v, "SLURM_JOB_ID") % 10'000);
  return endpoint;
}

}  // namespace longlora::dist
