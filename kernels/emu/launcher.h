#pragma once
// One launch at a time: blocks of fibers, their barriers and meeting points, and which fiber runs next.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "emu/bank_conflicts.h"
#include "emu/fiber.h"
#include "emu/runtime.h"

namespace longlora::emu {

/// "word at file:line".
std::string text(const Site&);

struct Random {
  uint64_t state;
  uint64_t next() {  // splitmix64
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint64_t>(n)); }
};

struct PendingCopies {
  std::deque<std::pair<uint64_t, Copy>> copies;  // lazy mode: with the number of their group
  uint64_t open_group = 1;
  uint64_t last_group = 0;    // of the last copy
  uint64_t waited_until = 1;  // groups below it have been waited for
};

struct Lane {
  bool done = false;
  Site waiting;  // word "" while ready
  int barrier = -1;
  PendingCopies pending;
};

struct Meeting {
  uint32_t arrived = 0;
  WarpOperation operation = nullptr;
  Site first;
  void* operands[32] = {};
};

struct Barrier {
  int expected = 0;
  std::vector<int> waiting;
  int phase = 0;
  char order[2] = {};  // what ThreadSanitizer hangs the ordering on; two, so that a fast thread's next phase is not mistaken for this one
};

constexpr int kBlockBarrier = 0, kNumBarriers = 16, kWarpBarrier = 16;

struct Block {
  bool busy = false;
  int index = 0, alive = 0;
  std::vector<uint32_t> ready;  // per warp
  std::vector<Lane> lanes;
  std::vector<Meeting> meetings;
  std::vector<Barrier> barriers;
  unsigned char* shared = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::map<std::string, std::vector<SharedAccess>> shared_accesses;  // by place, in order: only to count bank conflicts
  bool any_ready() const {
    return std::any_of(ready.begin(), ready.end(), [](uint32_t mask) { return mask != 0; });
  }
};

class Launcher {
 public:
  void run(int64_t blocks, int threads, int64_t shared_bytes, Body body, const void* params);

  // called by fibers
  void meet(WarpOperation, void*, Site);
  void barrier(int id, int expected, Site);
  void warp_barrier(Site);
  [[noreturn]] void fault(const std::string& what) { throw Fault(what + where()); }
  Lane& lane() { return block_->lanes[static_cast<size_t>(current.thread)]; }
  Block& block() { return *block_; }
  uint64_t launch() const { return launch_; }
  int64_t shared_bytes() const { return shared_bytes_; }
  int threads() const { return threads_; }

 private:
  std::string where() const {
    return " (block " + std::to_string(current.block) + ", thread " + std::to_string(current.thread) + ", seed " +
           std::to_string(options().seed) + ")";
  }
  void start(Block&, int index);
  void finish(Block&);
  void make_ready(Block& b, int thread) {
    b.lanes[static_cast<size_t>(thread)].waiting = {};
    b.ready[static_cast<size_t>(thread / 32)] |= 1u << (thread % 32);
  }
  void wait(Site, int barrier);
  void enter(Block&, int thread);
  bool choose(Block*&, int& thread);
  void go_on(Fiber::Leaving);
  bool run_one();
  bool refill();
  [[noreturn]] void report_deadlock();
  static void fiber_main();
  [[noreturn]] void body_of_fiber();
  void count_conflicts(Block&);

  Fiber main_;
  std::vector<std::unique_ptr<Block>> resident_;
  Block* block_ = nullptr;
  Random random_{1};
  Body body_ = nullptr;
  const void* params_ = nullptr;
  int threads_ = 0;
  int64_t shared_bytes_ = 0;
  uint64_t launch_ = 0;
  std::vector<int> order_;
  size_t next_block_ = 0;
  std::exception_ptr failure_;
  char begin_order_ = 0, end_order_ = 0;  // ThreadSanitizer: the launch comes before its threads, they before what follows it
};

inline Launcher& launcher() {
  static Launcher l;
  return l;
}

}  // namespace longlora::emu
