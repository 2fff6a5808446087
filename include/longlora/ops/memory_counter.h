#pragma once
// Counts what tensors take of host memory: bytes alive, the peak, and whose they are. In front of LibTorch's CPU allocator, so nothing
// that a tensor holds can be missed; memory of GPUs is counted by LibTorch itself (accelerator::memory_use).
//
// cost    one lock and one entry of a hash table an allocation and a release, about 0.1 us; nothing for a step that allocates nothing
// threads any
#include <array>
#include <cstdint>
#include <string_view>

namespace longlora {

/// What memory is for, by the names that a plan uses. Everything without a tag is `other`.
enum class Component : uint8_t { weights, optimizer_and_gradient, gradient_tree, tables, activations, offloaded_inputs, other };
inline constexpr size_t kNumComponents = 7;
std::string_view name_of(Component);

/// Bytes by component.
struct ComponentBytes {
  std::array<int64_t, kNumComponents> bytes{};
  int64_t& operator[](Component c) { return bytes[static_cast<size_t>(c)]; }
  int64_t operator[](Component c) const { return bytes[static_cast<size_t>(c)]; }
  bool operator==(const ComponentBytes&) const = default;
};

/// Bytes as they were asked for; what an allocator rounds up is not in them. Peaks and numbers are those since `mark_memory`.
struct MemoryCount {
  int64_t live_bytes = 0, peak_bytes = 0;
  ComponentBytes live, at_peak;                         // by component: now, and at the moment of the total's peak
  ComponentBytes own_peak;                              // each component's own largest value, at whatever moment
  int64_t allocations = 0, large_allocations = 0;       // large: above 1 MiB
  int64_t failed_bytes = 0, live_bytes_at_failure = 0;  // of the last allocation that failed, of the process; 0: none did
};

/// Puts the counter in front of the CPU allocator in force; a second call does nothing. Tensors from before are not counted. Call while
/// one thread runs. Without it every number below is 0 and tags and limits do nothing.
void install_memory_counter();

MemoryCount memory_count();
/// Peaks start again from what is alive, numbers from 0.
void mark_memory();

/// An allocation that would take the bytes alive above `bytes` throws LibTorch's out-of-memory error: as if the machine had no more.
/// What is alive already stays. 0: no limit.
void set_memory_limit(int64_t bytes);
/// The allocation after `count` more fails once, as above; negative: none. For tests of what follows.
void fail_allocation_after(int64_t count);

/// Allocations of this thread are the component's while the tag lives. The innermost tag counts.
class MemoryTag {
 public:
  explicit MemoryTag(Component);
  ~MemoryTag();
  MemoryTag(const MemoryTag&) = delete;
  MemoryTag& operator=(const MemoryTag&) = delete;

 private:
  Component outer_;
};

/// Bytes that no tensor holds (a vector of the host), counted while it lives; limits do not apply to them.
class CountedBytes {
 public:
  CountedBytes(Component, int64_t bytes);
  ~CountedBytes();
  CountedBytes(const CountedBytes&) = delete;
  CountedBytes& operator=(const CountedBytes&) = delete;

 private:
  Component component_;
  int64_t bytes_;
};

}  // namespace longlora
