#pragma once
// What a training step needs of a GPU besides tensors and kernels. A build without CUDA has no device: `why_unusable` says so, and the
// functions that read one must not be called.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace longlora::accelerator {

struct DeviceInfo {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0, multiprocessors = 0;
  int64_t total_bytes = 0;
};
struct MemoryUse {
  int64_t allocated = 0, reserved = 0, peak = 0;  // of this process: in tensors, held for them, most in tensors since reset_peak_bytes
  int64_t free = 0, total = 0;                    // of the card
};

/// Settings that libraries read at their first CUDA call: expandable segments of the allocator, a deterministic cuBLAS workspace (both
/// only where the environment does not say otherwise), fp32 products in fp32, bf16 products summed in fp32. Call before the first tensor.
void prepare_process();

/// nullopt: `device()` can compute. Otherwise one sentence: the build has no CUDA, there is no driver, no GPU, or an old one.
std::optional<std::string> why_unusable();
/// The card of this process among those it sees, from 0; call before the first tensor. Later calls of this header are about it.
void select_device(int index);
int selected_device();
/// Where a run computes when it does not compute on the CPU.
at::Device device();
std::vector<DeviceInfo> devices();

/// The stream that tensor operations of this thread go to, for kernel launches on the same device.
void* current_stream(const at::Device&);
/// Host memory for what is copied to a device: page-locked on CUDA, so that the copy runs beside the host. It may be dropped as soon as
/// the copy is enqueued.
at::Tensor staging(at::IntArrayRef sizes, at::ScalarType);
/// Host memory of exactly these bytes that copies to and from a device may use while the host goes on: page-locked on CUDA. Tens of seconds
/// for tens of GiB there; ErrorKind::memory when the host has not that much. It must outlive the copies.
at::Tensor host_block(int64_t bytes);
MemoryUse memory_use();
/// MemoryUse::peak starts again from what is allocated now; nothing without a GPU.
void reset_peak_bytes();
/// Gives memory that no tensor holds back to the card: before a step is tried again after a failed allocation.
void release_unused();
void synchronize();

/// A second queue of work on a device, for copies and messages that run beside what this thread computes. Any thread may use it, one at a
/// time.
class SideQueue {
 public:
  explicit SideQueue(const at::Device&);
  ~SideQueue();
  void* stream() const;
  void follow_current();  // what is enqueued here from now on starts after everything enqueued to the current stream so far
  void lead_current();    // the other way round
  void copy(at::Tensor& to, const at::Tensor& from);  // enqueued; both stay until then
  void synchronize();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A named span of host time in a profiler's timeline (NVTX); nothing without CUDA.
class Range {
 public:
  explicit Range(const char* name);
  ~Range();
  Range(const Range&) = delete;
};

}  // namespace longlora::accelerator
