#pragma once
// The machine and the process: CPU, threads, memory, library versions; what environment.json and the fingerprint of a checkpoint say.
#include <cstdint>
#include <map>
#include <string>

#include "longlora/config/train_config.h"
#include "longlora/train/device.h"

namespace longlora {

struct CpuInfo {
  std::string model;         // "AMD EPYC ..."
  std::string capability;    // LibTorch's dispatch level: DEFAULT, AVX2, AVX512
  int physical_cores = 1;    // of those this process may run on
  bool native_bf16 = false;  // avx512_bf16 or amx_bf16
};
const CpuInfo& cpu_info();

/// Sets intra-op and inter-op threads of LibTorch (0: physical cores). Call once, before the first tensor operation.
/// Ignores OMP_NUM_THREADS: thread count is part of what a run promises (docs/determinism).
int set_compute_threads(int requested);
int compute_threads();

/// precision.compute and model.dtype -> the one element type of this version's weights and products; auto is bf16 on a GPU. fp16, and a
/// model.dtype that differs from precision.compute: ErrorKind::config "not in this version".
ComputeType resolve_compute(const TrainConfig&, const ComputeDevice&);
std::string_view name_of(ComputeType);

/// Program, LibTorch, CPU capability, threads, device and attention code: equal fingerprints promise equal bits.
std::map<std::string, std::string> fingerprint(ComputeType, const ComputeDevice&, int64_t head_size);
std::string libtorch_version();

int64_t resident_bytes();       // VmRSS
int64_t peak_resident_bytes();  // VmHWM

}  // namespace longlora
