#include "longlora/train/device.h"

#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/train/environment.h"

namespace longlora {
namespace {

ComputeDevice the_gpu() {
  const accelerator::DeviceInfo info = accelerator::devices().at(0);
  return {.where = accelerator::device(),
          .name = fmt::format("{}, compute capability {}.{}, {} multiprocessors", info.name, info.major, info.minor, info.multiprocessors)};
}

int64_t device_budget(const TrainConfig& config) {
  if (config.memory.device_budget) return *config.memory.device_budget;
  return accelerator::memory_use().free;  // this process's context is out of it; the plan's `runtime` holds 1 GiB for cuBLAS and NCCL
}

}  // namespace

ComputeDevice choose_device(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return {};
  const std::optional<std::string> reason = accelerator::why_unusable();
  if (!reason) return the_gpu();
  LONGLORA_CHECK(kind == DeviceKind::automatic, config, *reason, "device", "use device: cpu or auto, or see longlora-train doctor");
  return {.cpu_reason = *reason};
}

ComputeDevice choose_device(const std::string& name) {
  return choose_device(name == "cuda" ? DeviceKind::cuda : name == "cpu" ? DeviceKind::cpu : DeviceKind::automatic);
}

PlanTarget plan_target(const ComputeDevice& device, const TrainConfig& config, ComputeType compute, int64_t local_ranks) {
  const int64_t element = compute == ComputeType::bf16 ? 2 : 4;
  const int64_t host = config.memory.host_budget ? *config.memory.host_budget : default_host_budget() / local_ranks;
  if (device.is_gpu()) return {PlanTarget::Device::gpu, element, device_budget(config), host};
  return {PlanTarget::Device::cpu, element, host};
}

MemoryNow memory_now(const at::Device& device) {
  if (device.is_cpu()) return {resident_bytes(), peak_resident_bytes()};
  const accelerator::MemoryUse use = accelerator::memory_use();
  return {use.allocated, use.peak};
}

}  // namespace longlora
