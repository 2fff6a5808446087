// include/longlora/ops/accelerator.h on the fake device. The emulator's one entry for launches is wrapped by the linker
// (tests/device/CMakeLists.txt), so that the arena is open while a kernel runs.
#include <ATen/ops/empty.h>

#include <utility>
#include <vector>

#include "device/arena.h"
#include "device/fake_device.h"
#include "emu/runtime.h"
#include "longlora/ops/accelerator.h"

namespace longlora {
namespace {
int64_t launch_count = 0, stale_copy_count = 0, waiting_copy_count = 0;
}

extern "C" {
void LONGLORA_REAL_RUN_BLOCKS(int64_t blocks, int threads, int64_t shared_bytes, emu::Body, const void* params);
void LONGLORA_WRAP_RUN_BLOCKS(int64_t blocks, int threads, int64_t shared_bytes, emu::Body body, const void* params) {
  const fake::Access access;
  ++launch_count;
  LONGLORA_REAL_RUN_BLOCKS(blocks, threads, shared_bytes, body, params);
}
}

int64_t fake::launches() { return launch_count; }
int64_t fake::stale_copies() { return stale_copy_count; }
int64_t fake::waiting_copies() { return waiting_copy_count; }

namespace accelerator {

void prepare_process() {}
std::optional<std::string> why_unusable() { return std::nullopt; }
void select_device(int) {}
int selected_device() { return 0; }
at::Device device() { return fake::device(); }
std::vector<DeviceInfo> devices() { return {{"emulated kernels", 8, 0, 1, static_cast<int64_t>(fake::kArenaBytes)}}; }
void* current_stream(const at::Device&) { return nullptr; }
at::Tensor staging(at::IntArrayRef sizes, at::ScalarType type) { return at::empty(sizes, at::TensorOptions().dtype(type)); }
at::Tensor host_block(int64_t bytes) { return at::empty({bytes}, at::TensorOptions().dtype(at::kByte)); }
MemoryUse memory_use() {
  const auto [allocated, peak] = fake::use();
  const auto all = static_cast<int64_t>(fake::kArenaBytes);
  return {static_cast<int64_t>(allocated), static_cast<int64_t>(allocated), static_cast<int64_t>(peak),
          all - static_cast<int64_t>(allocated), all};
}
void reset_peak_bytes() { fake::reset_peak(); }
void release_unused() {}
void synchronize() {}

/// Copies happen as late as the order of the queues allows, so that a forgotten wait gives wrong numbers.
struct SideQueue::State {
  std::vector<std::pair<at::Tensor, at::Tensor>> waiting;  // to, from
  int64_t followed = -1;                                   // launches when it last followed the current stream

  ~State() { waiting_copy_count -= static_cast<int64_t>(waiting.size()); }
  void finish() {
    for (auto& [to, from] : waiting) to.copy_(from);
    waiting_copy_count -= static_cast<int64_t>(waiting.size());
    waiting.clear();
  }
};
SideQueue::SideQueue(const at::Device&) : state_(std::make_unique<State>()) {}
SideQueue::~SideQueue() = default;
void* SideQueue::stream() const { return nullptr; }
void SideQueue::follow_current() { state_->followed = launch_count; }
void SideQueue::lead_current() { state_->finish(); }
void SideQueue::copy(at::Tensor& to, const at::Tensor& from) {
  if (state_->followed != launch_count) ++stale_copy_count;
  state_->waiting.emplace_back(to, from);
  ++waiting_copy_count;
}
void SideQueue::synchronize() { state_->finish(); }

Range::Range(const char*) {}
Range::~Range() {}

}  // namespace accelerator
}  // namespace longlora
