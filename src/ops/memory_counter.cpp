#include "longlora/ops/memory_counter.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "longlora/core/error.h"

namespace longlora {
namespace {

constexpr int64_t kLargeBytes = int64_t{1} << 20;

thread_local Component tag_of_thread = Component::other;

/// Numbers behind one lock: the parts of a peak must belong to one moment.
class Counter {
 public:
  /// Before the allocation, so that two threads cannot both pass below the limit.
  bool try_add(Component component, int64_t bytes) {
    if (bytes == 0) return true;  // nothing: neither counted nor able to fail
    const std::lock_guard lock(mutex_);
    const bool told_to_fail = fail_after_ == 0;
    if (fail_after_ >= 0) --fail_after_;
    if (told_to_fail || (limit_ > 0 && count_.live_bytes + bytes > limit_)) {
      note_failure(bytes);
      return false;
    }
    ++count_.allocations;
    if (bytes > kLargeBytes) ++count_.large_allocations;
    add(component, bytes);
    return true;
  }
  void add_external(Component component, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    add(component, bytes);
  }
  void take_back(Component component, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    count_.live_bytes -= bytes;
    count_.live[component] -= bytes;
  }
  void failed(Component component, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    count_.live_bytes -= bytes;
    count_.live[component] -= bytes;
    note_failure(bytes);
  }
  void remember(void* data, Component component, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    blocks_.emplace(data, Block{bytes, component});
  }
  void forget(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return;
    count_.live_bytes -= found->second.bytes;
    count_.live[found->second.component] -= found->second.bytes;
    blocks_.erase(found);
  }
  void mark() {
    const std::lock_guard lock(mutex_);
    count_.peak_bytes = count_.live_bytes;
    count_.at_peak = count_.own_peak = count_.live;
    count_.allocations = count_.large_allocations = 0;
  }
  MemoryCount count() {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  void set_limit(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }
  void set_failure(int64_t after) {
    const std::lock_guard lock(mutex_);
    fail_after_ = after;
  }

 private:
  struct Block {
    int64_t bytes;
    Component component;
  };
  void add(Component component, int64_t bytes) {
    count_.live_bytes += bytes;
    int64_t& own = count_.live[component];
    own += bytes;
    count_.own_peak[component] = std::max(count_.own_peak[component], own);
    if (count_.live_bytes <= count_.peak_bytes) return;
    count_.peak_bytes = count_.live_bytes;
    count_.at_peak = count_.live;
  }
  void note_failure(int64_t bytes) {
    count_.failed_bytes = bytes;
    count_.live_bytes_at_failure = count_.live_bytes;
  }

  std::mutex mutex_;
  MemoryCount count_;
  std::unordered_map<void*, Block> blocks_;
  int64_t limit_ = 0, fail_after_ = -1;
};

/// Never destroyed: tensors of static objects are released after it would be.
Counter& counter() {
  static auto* const the_counter = new Counter;
  return *the_counter;
}

/// Data and context are one pointer, as the raw interface of LibTorch's allocators and copy-on-write storages demand; so sizes live in the
/// counter's table and not in a context.
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator& inner) : inner_(inner), release_(inner.raw_deleter()) {
    LONGLORA_INVARIANT(release_ != nullptr);
  }

  c10::DataPtr allocate(size_t size) override {
    const Component component = tag_of_thread;
    const auto bytes = static_cast<int64_t>(size);
    TORCH_CHECK(counter().try_add(component, bytes), "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", size,
                " bytes. Error code ", ENOMEM, " (", std::strerror(ENOMEM), ")");
    c10::DataPtr block;
    try {
      block = inner_.allocate(size);
      if (block.get() == nullptr)
        counter().take_back(component, bytes);  // of nothing
      else
        counter().remember(block.get(), component, bytes);
    } catch (...) {
      counter().failed(component, bytes);
      throw;
    }
    const c10::Device device = block.device();
    void* const data = block.release_context();
    return {data, data, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { inner_.copy_data(to, from, bytes); }

  static CountingAllocator* installed;

 private:
  /// The entry goes first: another thread may get the same address as soon as the block is free.
  static void release(void* data) {
    if (data == nullptr) return;
    counter().forget(data);
    installed->release_(data);
  }

  c10::Allocator& inner_;
  c10::DeleterFnPtr release_;
};

CountingAllocator* CountingAllocator::installed = nullptr;

}  // namespace

std::string_view name_of(Component component) {
  constexpr std::string_view kNames[] = {"weights",     "optimizer_and_gradient", "gradient_tree", "tables",
                                         "activations", "offloaded_inputs",       "other"};
  return kNames[static_cast<size_t>(component)];
}

void install_memory_counter() {
  if (CountingAllocator::installed != nullptr) return;
  constexpr uint8_t kHighest = 255;
  CountingAllocator::installed = new CountingAllocator(*c10::GetCPUAllocator());
  c10::SetCPUAllocator(CountingAllocator::installed, kHighest);
}

MemoryCount memory_count() { return counter().count(); }
void mark_memory() { counter().mark(); }
void set_memory_limit(int64_t bytes) { counter().set_limit(bytes); }
void fail_allocation_after(int64_t count) { counter().set_failure(count); }

MemoryTag::MemoryTag(Component component) : outer_(std::exchange(tag_of_thread, component)) {}
MemoryTag::~MemoryTag() { tag_of_thread = outer_; }

CountedBytes::CountedBytes(Component component, int64_t bytes) : component_(component), bytes_(bytes) {
  counter().add_external(component_, bytes_);
}
CountedBytes::~CountedBytes() { counter().take_back(component_, bytes_); }

}  // namespace longlora
