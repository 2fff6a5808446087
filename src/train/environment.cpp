#include "longlora/train/environment.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sched.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/attention.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/train/version.h"

namespace longlora {
namespace {

/// Distinct (package, core) pairs among the CPUs this process may use; hyper-threads of one core share its multipliers.
int count_physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::pair<int, int>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    int package = 0, core = cpu;
    std::ifstream(folder + "physical_package_id") >> package;
    std::ifstream(folder + "core_id") >> core;
    cores.emplace(package, core);
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

CpuInfo read_cpu_info() {
  CpuInfo info;
  info.capability = at::get_cpu_capability();
  info.physical_cores = count_physical_cores();
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("model name") && info.model.empty()) info.model = line.substr(colon + 2);
    if (line.starts_with("flags")) {
      info.native_bf16 = line.find(" avx512_bf16") != std::string::npos || line.find(" amx_bf16") != std::string::npos;
      break;
    }
  }
  return info;
}

/// Bytes of a line "Key:  N kB" of this process's status.
int64_t bytes_of(const char* key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    std::istringstream words(line.substr(std::string_view(key).size()));
    int64_t kib = 0;
    words >> kib;
    return kib * 1024;
  }
  return 0;
}

std::optional<ComputeType> as_compute(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::automatic:
      return std::nullopt;
    case WeightDType::bf16:
      return ComputeType::bf16;
    case WeightDType::fp16:
      return ComputeType::fp16;
    case WeightDType::fp32:
      return ComputeType::fp32;
  }
  return std::nullopt;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = read_cpu_info();
  return info;
}

int set_compute_threads(int requested) {
  const int threads = requested > 0 ? requested : cpu_info().physical_cores;
  at::set_num_threads(threads);
  at::set_num_interop_threads(1);
  accelerator::prepare_process();
  install_memory_counter();
  return threads;
}

int compute_threads() { return at::get_num_threads(); }

ComputeType resolve_compute(const TrainConfig& config, const ComputeDevice& device) {
  const std::optional<ComputeType> stored = as_compute(config.model.dtype);
  ComputeType compute = config.precision.compute;
  if (compute == ComputeType::automatic) {
    compute = stored.value_or(device.is_gpu() || cpu_info().native_bf16 ? ComputeType::bf16 : ComputeType::fp32);
  }
  LONGLORA_CHECK(compute != ComputeType::fp16, config, "fp16 is not in this version",
                 stored == ComputeType::fp16 ? "model.dtype" : "precision.compute", "use bf16 or fp32");
  LONGLORA_CHECK(!stored || *stored == compute, config,
                 "frozen weights in " + std::string(name_of(stored.value_or(compute))) + " with products in " +
                     std::string(name_of(compute)) + " are not in this version",
                 "model.dtype", "leave model.dtype at auto");
  return compute;
}

std::string_view name_of(ComputeType compute) {
  switch (compute) {
    case ComputeType::automatic:
      return "auto";
    case ComputeType::bf16:
      return "bf16";
    case ComputeType::fp16:
      return "fp16";
    case ComputeType::fp32:
      return "fp32";
  }
  return "?";
}

std::map<std::string, std::string> fingerprint(ComputeType compute, const ComputeDevice& device, int64_t head_size) {
  const at::ScalarType type = compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat;
  return {{"program", std::string(kVersion)},
          {"libtorch", libtorch_version()},
          {"cpu_capability", cpu_info().capability},
          {"compute", std::string(name_of(compute))},
          {"device", device.is_gpu() ? device.name : "cpu"},
          {"attention_kernel", attention_variant(device.where, type, head_size)},
          {"threads", std::to_string(compute_threads())}};
}

std::string libtorch_version() { return TORCH_VERSION; }

int64_t resident_bytes() { return bytes_of("VmRSS:"); }
int64_t peak_resident_bytes() { return bytes_of("VmHWM:"); }

}  // namespace longlora
