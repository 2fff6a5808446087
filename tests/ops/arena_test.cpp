// The arena: two ends that never meet, contents that survive the other end's coming and going, and what happens when it is too small.
#include "longlora/ops/arena.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <random>

#include "longlora/core/error.h"
#include "longlora/ops/memory_counter.h"

namespace longlora {
namespace {

using enum Arena::End;

uintptr_t address(const at::Tensor& t) { return reinterpret_cast<uintptr_t>(t.data_ptr()); }

TEST(Arena, CutsAlignedTensorsOutOfOneBlock) {
  Arena arena(at::kCPU);
  arena.reserve(5 * Arena::kAlignment - 1);
  EXPECT_EQ(arena.bytes(), 5 * Arena::kAlignment);
  const at::Tensor low = arena.take(bottom, 1), next = arena.take(bottom, {3, 7}, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor high = arena.take(top, 300);
  EXPECT_EQ(address(next) - address(low), static_cast<uintptr_t>(Arena::kAlignment));
  EXPECT_EQ(address(high) - address(low), static_cast<uintptr_t>(3 * Arena::kAlignment));
  EXPECT_EQ(next.sizes(), (at::IntArrayRef{3, 7}));
  EXPECT_EQ(arena.used(bottom), 2 * Arena::kAlignment);
  EXPECT_EQ(arena.used(top), 2 * Arena::kAlignment);
  EXPECT_EQ(arena.peak_bytes(), 4 * Arena::kAlignment);
}

/// Random takes and returns at both ends of an arena of half the size that is needed: no tensor ever changes under its owner.
TEST(Arena, NothingThatIsInUseOverlaps) {
  std::mt19937 random(7);
  Arena arena(at::kCPU);
  arena.reserve(20'000);
  struct Taken {
    at::Tensor bytes;
    int64_t used_before;
    uint8_t value;
  };
  std::vector<Taken> taken[2];
  for (int step = 0; step < 4000; ++step) {
    const int end = static_cast<int>(random() % 2);
    std::vector<Taken>& stack = taken[end];
    if (stack.size() < 12 && random() % 5 < 3) {
      const Arena::End where = end == 0 ? bottom : top;
      const int64_t before = arena.used(where);
      stack.push_back({arena.take(where, 1 + static_cast<int64_t>(random() % 3000)), before, static_cast<uint8_t>(random())});
      stack.back().bytes.fill_(stack.back().value);
    } else if (!stack.empty()) {
      EXPECT_TRUE(stack.back().bytes.eq(stack.back().value).all().item<bool>()) << step;
      arena.give_back(end == 0 ? bottom : top, stack.back().used_before);
      stack.pop_back();
    }
  }
  for (const std::vector<Taken>& stack : taken)
    for (const Taken& t : stack) EXPECT_TRUE(t.bytes.eq(t.value).all().item<bool>());
}

TEST(Arena, GrowsToWhatWasInUseAndAllocatesNoMore) {
  install_memory_counter();
  Arena arena(at::kCPU);
  const auto pass = [&] {
    const ArenaScope kept(arena, bottom), work(arena, top);
    arena.take(bottom, 100'000);
    arena.take(top, 50'000);
  };
  pass();
  EXPECT_EQ(arena.bytes(), 0);
  arena.settle();
  EXPECT_GE(arena.bytes(), 150'000);
  mark_memory();
  pass();
  arena.settle();
  EXPECT_EQ(memory_count().allocations, 0);
  arena.reserve(64);  // back to a plan's size
  EXPECT_EQ(arena.bytes(), Arena::kAlignment);
  arena.release();
  EXPECT_EQ(arena.bytes(), 0);
}

TEST(Arena, CountsAsActivations) {
  install_memory_counter();
  const int64_t before = memory_count().live[Component::activations];
  Arena arena(at::kCPU);
  arena.reserve(1 << 20);
  EXPECT_EQ(memory_count().live[Component::activations] - before, 1 << 20);
}

TEST(Arena, RefusesToForgetWhatIsInUse) {
  Arena arena(at::kCPU);
  arena.reserve(1024);
  const ArenaScope scope(arena, top);
  arena.take(top, 10);
  EXPECT_THROW(arena.reserve(2048), Error);
  EXPECT_THROW(arena.give_back(top, 4096), Error);
}

}  // namespace
}  // namespace longlora
