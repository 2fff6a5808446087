// The GPU of a CUDA build, through LibTorch's allocator and streams. The only file of the tensor modules that knows CUDA.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdlib>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"

namespace longlora::accelerator {
namespace {

int selected = 0;                // of the cards this process sees
constexpr int kOldestMajor = 8;  // mma.sync on bf16 and cp.async

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    fail(ErrorKind::internal, std::string(call) + ": " + cudaGetErrorString(status), "GPU " + std::to_string(selected),
         "look at nvidia-smi and run doctor");
}

/// LibTorch's GPU half registers its operators when it is loaded, before ATen first looks for them. That takes a quarter of a second,
/// which a machine without a driver never spends. nullopt: it is there, or not needed.
std::optional<std::string> load_gpu_half() {
  if (::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) return std::nullopt;  // why_unusable finds no driver either
  if (::dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_GLOBAL) != nullptr) return std::nullopt;
  const char* reason = ::dlerror();
  return std::string("LibTorch's GPU half cannot be loaded: ") + (reason != nullptr ? reason : "unknown reason");
}

const std::optional<std::string>& gpu_half() {
  static const std::optional<std::string> missing = load_gpu_half();
  return missing;
}

}  // namespace

void prepare_process() {
  gpu_half();
  constexpr int kKeep = 0;  // what the user set stays
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") == nullptr) ::setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True", kKeep);
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", kKeep);
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
}

std::optional<std::string> why_unusable() {
  if (gpu_half()) return gpu_half();
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) return "the NVIDIA driver is missing or older than this program's CUDA";
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) return "there is no GPU";
  if (status != cudaSuccess) return std::string("CUDA: ") + cudaGetErrorString(status);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, selected), "cudaGetDeviceProperties");
  if (properties.major >= kOldestMajor) return std::nullopt;
  return std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ", 8.0 is needed";
}

void select_device(int index) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return;  // why_unusable says so
  if (count == 1) return;                                               // a launcher shows each rank its own card
  LONGLORA_CHECK(index < count, config,
                 "rank " + std::to_string(index) + " of this host has no GPU, " + std::to_string(count) + " are visible", "local rank",
                 "start as many ranks as there are GPUs, or look at CUDA_VISIBLE_DEVICES");
  check(cudaSetDevice(index), "cudaSetDevice");
  selected = index;
}

int selected_device() { return selected; }
at::Device device() { return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(selected)); }

std::vector<DeviceInfo> devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<DeviceInfo> found;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) == cudaSuccess)
      found.push_back({p.name, p.major, p.minor, p.multiProcessorCount, static_cast<int64_t>(p.totalGlobalMem)});
  }
  return found;
}

void* current_stream(const at::Device& device) { return c10::cuda::getCurrentCUDAStream(device.index()).stream(); }

at::Tensor staging(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, at::TensorOptions().dtype(type).pinned_memory(true));
}

at::Tensor host_block(int64_t bytes) {
  void* block = nullptr;  // not from LibTorch's pool, which rounds up to a power of two
  const cudaError_t status = cudaHostAlloc(&block, static_cast<size_t>(bytes), cudaHostAllocDefault);
  (void)cudaGetLastError();  // a failure is reported here, not by the next launch
  LONGLORA_CHECK(status == cudaSuccess, memory, std::to_string(bytes) + " bytes of page-locked host memory: " + cudaGetErrorString(status),
                 "memory.host_budget", "set it lower, or ask less of it: memory.policy: checkpoint, or a shorter data.sequence_length");
  return at::from_blob(
      block, {bytes}, [](void* p) { cudaFreeHost(p); }, at::TensorOptions().dtype(at::kByte));
}

MemoryUse memory_use() {
  using namespace c10::CachingDeviceAllocator;
  at::globalContext().lazyInitDevice(at::kCUDA);  // the planner asks before the first tensor
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const DeviceStats stats = c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(selected));
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {.allocated = stats.allocated_bytes[all].current,
          .reserved = stats.reserved_bytes[all].current,
          .peak = stats.allocated_bytes[all].peak,
          .free = static_cast<int64_t>(free),
          .total = static_cast<int64_t>(total)};
}

void reset_peak_bytes() {
  at::globalContext().lazyInitDevice(at::kCUDA);
  c10::cuda::CUDACachingAllocator::resetPeakStats(static_cast<c10::DeviceIndex>(selected));
}

void release_unused() { c10::cuda::CUDACachingAllocator::emptyCache(); }
void synchronize() { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

namespace {
/// `later` gets an order after what `sooner` holds now. The event may go before it has happened.
void put_after(const c10::cuda::CUDAStream& later, const c10::cuda::CUDAStream& sooner) {
  c10::cuda::CUDAEvent event;
  event.record(sooner);
  event.block(later);
}
}  // namespace

struct SideQueue::State {
  c10::cuda::CUDAStream stream;
};
SideQueue::SideQueue(const at::Device& device)
    : state_(std::make_unique<State>(State{c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())})) {}
SideQueue::~SideQueue() = default;
void* SideQueue::stream() const { return state_->stream.stream(); }
void SideQueue::follow_current() { put_after(state_->stream, c10::cuda::getCurrentCUDAStream(state_->stream.device_index())); }
void SideQueue::lead_current() { put_after(c10::cuda::getCurrentCUDAStream(state_->stream.device_index()), state_->stream); }
void SideQueue::copy(at::Tensor& to, const at::Tensor& from) {
  const c10::cuda::CUDAStreamGuard guard(state_->stream);
  to.copy_(from, /*non_blocking=*/true);
}
void SideQueue::synchronize() { state_->stream.synchronize(); }

Range::Range(const char* name) { nvtxRangePushA(name); }
Range::~Range() { nvtxRangePop(); }

}  // namespace longlora::accelerator
