#pragma once
// Where a run computes: the configuration's `device` against what this build and this machine have.
#include <ATen/core/Tensor.h>

#include <string>

#include "longlora/config/model_config.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/memory_plan.h"

namespace longlora {

struct ComputeDevice {
  at::Device where = at::kCPU;
  std::string name;        // "NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors"; empty on the CPU
  std::string cpu_reason;  // `auto` took the CPU: why
  bool is_gpu() const { return !where.is_cpu(); }
};

/// auto: the GPU where one can be used, otherwise the CPU. cuda without a usable GPU: ErrorKind::config saying what is missing.
ComputeDevice choose_device(DeviceKind);
/// "auto", "cpu" or "cuda", as a flag gives it.
ComputeDevice choose_device(const std::string& name);

/// What the planner may use: memory.device_budget or what of the card is free (the plan leaves 1 GiB of it to libraries);
/// memory.host_budget, which is a rank's, or this rank's part of the host's default where `local_ranks` run on the host.
PlanTarget plan_target(const ComputeDevice&, const TrainConfig&, ComputeType, int64_t local_ranks = 1);

/// Which allocation failed. On the CPU both are the one memory.
enum class ShortOf : uint8_t { device_memory, host_memory };

struct MemoryNow {
  int64_t bytes = 0, peak_bytes = 0;  // of tensors on a GPU, since the step began; resident in host memory on the CPU, since the start
};
MemoryNow memory_now(const at::Device&);

}  // namespace longlora
