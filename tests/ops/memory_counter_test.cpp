// The counter in front of the CPU allocator: bytes by component, peaks, limits, threads, and LibTorch's rules for allocators.
#include "longlora/ops/memory_counter.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "longlora/core/error.h"

namespace longlora {
namespace {

at::Tensor bytes(int64_t count) { return at::empty({count}, at::TensorOptions().dtype(at::kByte)); }

class MemoryCounter : public testing::Test {
 protected:
  MemoryCounter() {
    install_memory_counter();
    mark_memory();
    start = memory_count();
  }
  ~MemoryCounter() override {
    set_memory_limit(0);
    fail_allocation_after(-1);
  }
  int64_t live() const { return memory_count().live_bytes - start.live_bytes; }
  int64_t live(Component c) const { return memory_count().live[c] - start.live[c]; }
  MemoryCount start;
};

std::string failure(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return is_out_of_memory(error) ? error.what() : "not of memory";
  }
  return "";
}

TEST_F(MemoryCounter, InnermostTagOfTheThreadDecides) {
  std::vector<at::Tensor> held;
  held.push_back(bytes(100));
  {
    const MemoryTag outer(Component::weights);
    held.push_back(bytes(200));
    {
      const MemoryTag inner(Component::tables);
      held.push_back(bytes(400));
    }
    held.push_back(bytes(800));
    std::thread([&] { held.push_back(bytes(1600)); }).join();
  }
  EXPECT_EQ(live(Component::other), 1700);
  EXPECT_EQ(live(Component::weights), 1000);
  EXPECT_EQ(live(Component::tables), 400);
  EXPECT_EQ(live(), 3100);
  held.clear();
  EXPECT_EQ(live(), 0);
  EXPECT_EQ(live(Component::weights), 0);
}

TEST_F(MemoryCounter, PeaksBelongToOneMomentAndToEachComponent) {
  const MemoryTag tag(Component::activations);
  { const at::Tensor early = bytes(3000); }
  const at::Tensor a = bytes(1000);
  const MemoryTag weights(Component::weights);
  { const at::Tensor b = bytes(5000); }
  const MemoryCount count = memory_count();
  EXPECT_EQ(count.peak_bytes - start.live_bytes, 6000);
  EXPECT_EQ(count.at_peak[Component::activations] - start.live[Component::activations], 1000);
  EXPECT_EQ(count.at_peak[Component::weights] - start.live[Component::weights], 5000);
  EXPECT_EQ(count.own_peak[Component::activations] - start.live[Component::activations], 3000);
  mark_memory();
  EXPECT_EQ(memory_count().peak_bytes - start.live_bytes, 1000);
}

TEST_F(MemoryCounter, NumbersStartAtTheMark) {
  const at::Tensor small = bytes(1 << 20), large = bytes((1 << 20) + 1);
  EXPECT_EQ(memory_count().allocations, 2);
  EXPECT_EQ(memory_count().large_allocations, 1);
  mark_memory();
  EXPECT_EQ(memory_count().allocations, 0);
  EXPECT_EQ(memory_count().large_allocations, 0);
}

TEST_F(MemoryCounter, LimitRefusesAsTheMachineWould) {
  const at::Tensor held = bytes(10000);
  set_memory_limit(start.live_bytes + 15000);
  EXPECT_EQ(failure([] { bytes(5000); }), "");
  const std::string refused = failure([] { bytes(5001); });
  EXPECT_NE(refused.find("can't allocate memory: you tried to allocate 5001 bytes"), std::string::npos) << refused;
  EXPECT_EQ(memory_count().failed_bytes, 5001);
  EXPECT_EQ(memory_count().live_bytes_at_failure, start.live_bytes + 10000);
  EXPECT_EQ(live(), 10000);
  set_memory_limit(0);
  EXPECT_EQ(failure([] { bytes(1 << 20); }), "");
}

TEST_F(MemoryCounter, AChosenAllocationFailsOnce) {
  fail_allocation_after(2);
  EXPECT_EQ(failure([] { bytes(1), bytes(1); }), "");
  EXPECT_NE(failure([] { bytes(1); }), "");
  EXPECT_EQ(failure([] { bytes(1); }), "");
}

TEST_F(MemoryCounter, AnAllocationThatTheMachineRefusesIsNotCounted) {
  constexpr int64_t kMoreThanThereIs = int64_t{1} << 56;
  EXPECT_NE(failure([] { bytes(kMoreThanThereIs); }), "");
  EXPECT_EQ(live(), 0);
  EXPECT_EQ(memory_count().failed_bytes, kMoreThanThereIs);
}

TEST_F(MemoryCounter, KeepsTheRulesOfAllocators) {
  c10::Allocator& allocator = *c10::GetCPUAllocator();
  void* const data = allocator.raw_allocate(300);
  EXPECT_EQ(live(), 300);
  allocator.raw_deallocate(data);
  EXPECT_EQ(live(), 0);
  EXPECT_TRUE(allocator.is_simple_data_ptr(allocator.allocate(8)));
  at::Tensor t = bytes(0);
  t.resize_({700});
  t.resize_({900});
  EXPECT_EQ(live(), 900);
}

TEST_F(MemoryCounter, CountsBytesThatNoTensorHolds) {
  {
    const CountedBytes table(Component::tables, 12345);
    EXPECT_EQ(live(Component::tables), 12345);
  }
  EXPECT_EQ(live(), 0);
  EXPECT_EQ(memory_count().peak_bytes - start.live_bytes, 12345);
}

TEST_F(MemoryCounter, ManyThreadsEndAtZero) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      const MemoryTag tag(static_cast<Component>(t));
      std::vector<at::Tensor> held(7);
      for (int i = 0; i < 5000; ++i) held[static_cast<size_t>(i % 7)] = bytes(1 + i % 97);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(live(), 0);
  EXPECT_EQ(memory_count().live, start.live);
  EXPECT_EQ(memory_count().allocations, 20000);
}

}  // namespace
}  // namespace longlora
