#pragma once
// Planned against measured memory of a run's steps: memory.json, and the rows that a report shows.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "longlora/ops/memory_counter.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/trainer.h"

namespace longlora {

struct MemoryRow {
  std::string name;
  int64_t planned_bytes = 0;
  std::optional<int64_t> measured_bytes;  // nullopt: only the total is known (GPU)
  /// (planned - measured) / measured in percent; nullopt where nothing was measured.
  std::optional<double> difference_percent() const;
};

/// One row a component of the counter, then "total". Entries of the plan by other names belong to `activations` (arena and its parts),
/// except `runtime`, which no tensor holds: it is left out on both sides. A GPU's only measured number is `device_peak_bytes`.
std::vector<MemoryRow> memory_rows(const MemoryPlan&, const MemoryCount& host, std::optional<int64_t> device_peak_bytes);

/// Writes memory.json whenever a step needs more than all before it: so it is there after a kill, too. Evaluation, checkpoints and export
/// are not steps. A step in which the plan changed (memory.on_oom: step_down) is not measured.
class MemoryObserver : public Observer {
 public:
  MemoryObserver(std::filesystem::path file, const MemoryPlan&, bool is_gpu);  // the plan must outlive this
  void after_step(const StepReport&) override;

 private:
  std::filesystem::path file_;
  const MemoryPlan& plan_;
  bool is_gpu_;
  std::vector<LayerPolicy> policy_, full_policy_;  // of the measured steps
  int64_t worst_bytes_ = 0;
};

/// The plan in force.
struct PlannedMemory {
  int64_t peak_bytes = 0, budget_bytes = 0;
  std::string budget_key = "memory.host_budget";
};
/// What is said when memory is used up and nothing less can be kept: ErrorKind::memory with needed and available bytes and remedies.
/// step: completed before; 0: the run had not begun.
[[noreturn]] void fail_out_of_memory(const std::exception&, int64_t step, const PlannedMemory&);

}  // namespace longlora
