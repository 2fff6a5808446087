// A build without CUDA: no device.
#include <ATen/ops/empty.h>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"

namespace longlora::accelerator {

void prepare_process() {}
std::optional<std::string> why_unusable() { return "this build of the program has no CUDA"; }
void select_device(int) {}
int selected_device() { return 0; }
at::Device device() { fail(ErrorKind::config, *why_unusable(), "device", "use device: cpu, or build with scripts/build.sh cuda"); }
std::vector<DeviceInfo> devices() { return {}; }
void* current_stream(const at::Device&) { return nullptr; }
at::Tensor staging(at::IntArrayRef sizes, at::ScalarType type) { return at::empty(sizes, at::TensorOptions().dtype(type)); }
at::Tensor host_block(int64_t bytes) { return at::empty({bytes}, at::TensorOptions().dtype(at::kByte)); }
MemoryUse memory_use() { return {}; }
void reset_peak_bytes() {}
void release_unused() {}
void synchronize() {}

struct SideQueue::State {};
SideQueue::SideQueue(const at::Device&) {}
SideQueue::~SideQueue() = default;
void* SideQueue::stream() const { return nullptr; }
void SideQueue::follow_current() {}
void SideQueue::lead_current() {}
void SideQueue::copy(at::Tensor& to, const at::Tensor& from) { to.copy_(from); }
void SideQueue::synchronize() {}

Range::Range(const char*) {}
Range::~Range() {}

}  // namespace longlora::accelerator
