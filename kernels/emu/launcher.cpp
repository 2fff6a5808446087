#include "emu/launcher.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "emu/tsan.h"

namespace longlora::emu {

Current current;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(LONGLORA_EMU_TSAN)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

}  // namespace

std::string text(const Site& s) {
  const char* slash = std::strrchr(s.file, '/');
  return std::string(s.word) + " at " + (slash ? slash + 1 : s.file) + ":" + std::to_string(s.line);
}

void Launcher::fiber_main() { launcher().body_of_fiber(); }

void Launcher::body_of_fiber() {
  Fiber& self = *block_->fibers[static_cast<size_t>(current.thread)];
  Fiber::entered(self);
  acquire(&begin_order_);
  try {
    body_(params_);
    Unwatched unwatched;
    if (lane().pending.last_group >= lane().pending.waited_until) fault("a thread ended with asynchronous copies that it never waited for");
  } catch (...) {
    failure_ = std::current_exception();
  }
  release(&end_order_);
  Lane& mine = lane();
  mine.done = true;
  --block_->alive;
  if (failure_) {
    self.switch_to(main_, Fiber::Leaving::for_good);
  } else {
    go_on(Fiber::Leaving::for_good);
  }
  std::abort();  // a finished fiber was resumed
}

void Launcher::enter(Block& b, int thread) {
  block_ = &b;
  current.thread = thread;
  current.block = b.index;
  current.shared = b.shared;
  b.ready[static_cast<size_t>(thread / 32)] &= ~(1u << (thread % 32));
}

/// The next thread to run: in the same block while it has one, by the schedule.
bool Launcher::choose(Block*& b, int& thread) {
  if (options().schedule == Schedule::random && resident_.size() > 1) {
    Block* other = resident_[static_cast<size_t>(random_.below(static_cast<int>(resident_.size())))].get();
    if (other->alive > 0 && other->any_ready()) b = other;
  }
  if (!b->any_ready()) {
    b = nullptr;
    for (const auto& candidate : resident_)
      if (candidate->alive > 0 && candidate->any_ready()) b = candidate.get();
    if (b == nullptr) return false;
  }
  const int warps = static_cast<int>(b->ready.size()), here = std::min(thread / 32, warps - 1);
  const auto mask_of = [&](int w) { return b->ready[static_cast<size_t>(w)]; };
  switch (options().schedule) {
    case Schedule::ascending:
      for (int i = 0, w = here; i < warps; ++i, w = (w + 1) % warps)
        if (mask_of(w)) return thread = w * 32 + std::countr_zero(mask_of(w)), true;
      break;
    case Schedule::descending:
      for (int i = 0, w = here; i < warps; ++i, w = (w + warps - 1) % warps)
        if (mask_of(w)) return thread = w * 32 + 31 - std::countl_zero(mask_of(w)), true;
      break;
    case Schedule::run_ahead:
      if (mask_of(here)) return thread = here * 32 + std::countr_zero(mask_of(here)), true;
      [[fallthrough]];
    case Schedule::random:
      for (int i = 0, w = random_.below(warps); i < warps; ++i, w = (w + 1) % warps) {
        if (!mask_of(w)) continue;
        const int turn = random_.below(32);
        return thread = w * 32 + (std::countr_zero(std::rotr(mask_of(w), turn)) + turn) % 32, true;
      }
      break;
  }
  return false;
}

/// Leaves the current fiber for the next one that can run, or for the launching thread when there is none.
void Launcher::go_on(Fiber::Leaving leaving) {
  Block* mine = block_;
  const int me = current.thread;
  Fiber& self = *mine->fibers[static_cast<size_t>(me)];
  Block* to = block_;
  int thread = me;
  if (choose(to, thread)) {
    Fiber& next = *to->fibers[static_cast<size_t>(thread)];
    enter(*to, thread);
    if (&next == &self) return;
    self.switch_to(next, leaving);
  } else {
    self.switch_to(main_, leaving);
  }
}

void Launcher::wait(Site at, int barrier) {
  Lane& mine = lane();
  mine.waiting = at;
  mine.barrier = barrier;
  release(&end_order_);  // in case the launch fails while this thread waits
  const Watched watched;
  go_on(Fiber::Leaving::for_now);
}

void Launcher::meet(WarpOperation operation, void* operand, Site at) {
  Block& b = *block_;
  const int warp = current.thread / 32, mine = current.thread % 32;
  Meeting& m = b.meetings[static_cast<size_t>(warp)];
  if (m.arrived == 0) {
    m.first = at;
    m.operation = operation;
  } else if (m.operation != operation || m.first.line != at.line || m.first.column != at.column ||
             std::strcmp(m.first.file, at.file) != 0) {
    fault("lanes of one warp are at different places: " + text(m.first) + " and " + text(at));
  }
  m.operands[mine] = operand;
  m.arrived |= 1u << mine;
  if (m.arrived != 0xffffffffu) return wait(at, -1);
  m.arrived = 0;
  if (operation != nullptr) operation(m.operands);
  for (int i = 0; i < 32; ++i)
    if (i != mine) make_ready(b, warp * 32 + i);
}

void Launcher::warp_barrier(Site at) {
  Barrier& order = block_->barriers[static_cast<size_t>(kWarpBarrier + current.thread / 32)];
  char* phase = &order.order[order.phase & 1];
  release(phase);
  meet(nullptr, nullptr, at);
  if (phase == &order.order[order.phase & 1]) ++order.phase;  // the first lane to leave
  acquire(phase);
}

void Launcher::barrier(int id, int expected, Site at) {
  Block& b = *block_;
  Barrier& barrier = b.barriers[static_cast<size_t>(id)];
  if (barrier.waiting.empty()) {
    barrier.expected = expected;
    ++statistics().barriers;
  }
  if (barrier.expected != expected)
    fault("barrier " + std::to_string(id) + " is for " + std::to_string(barrier.expected) + " threads and for " + std::to_string(expected) +
          ": " + text(at));
  char* phase = &barrier.order[barrier.phase & 1];
  release(phase);
  barrier.waiting.push_back(current.thread);
  if (static_cast<int>(barrier.waiting.size()) < expected) {
    wait(at, id);
  } else {
    for (const int t : barrier.waiting)
      if (t != current.thread) make_ready(b, t);
    barrier.waiting.clear();
    ++barrier.phase;
  }
  acquire(phase);
}

void Launcher::start(Block& b, int index) {
  b.busy = true;
  b.index = index;
  b.alive = threads_;
  b.ready.assign(static_cast<size_t>(threads_ / 32), 0xffffffffu);
  b.lanes.assign(static_cast<size_t>(threads_), Lane{});
  b.meetings.assign(static_cast<size_t>(threads_ / 32), Meeting{});
  b.barriers.resize(static_cast<size_t>(kWarpBarrier + threads_ / 32));
  for (Barrier& barrier : b.barriers) {
    barrier.waiting.clear();
    barrier.phase = 0;
  }
  const size_t bytes = static_cast<size_t>(shared_bytes_);
  void* shared = nullptr;  // of the exact size, so that AddressSanitizer sees its end; aligned like the device's
  if (bytes > 0 && posix_memalign(&shared, 1024, bytes) == 0) std::memset(shared, kPoison, bytes);
  b.shared = static_cast<unsigned char*>(shared);
  while (b.fibers.size() < static_cast<size_t>(threads_)) b.fibers.push_back(std::make_unique<Fiber>(kStackBytes));
  for (int t = 0; t < threads_; ++t) b.fibers[static_cast<size_t>(t)]->prepare(&Launcher::fiber_main);
  ++statistics().blocks;
  release(&begin_order_);
}

void Launcher::finish(Block& b) {
  b.busy = false;
  acquire(&end_order_);  // the next block of this slot uses the same memory
  if (options().count_bank_conflicts) count_conflicts(b);
  std::free(std::exchange(b.shared, nullptr));
}

void Launcher::report_deadlock() {
  std::string what = "deadlock";
  for (const auto& resident : resident_) {
    const Block& b = *resident;
    if (b.alive == 0) continue;
    std::map<std::string, std::vector<int>> groups;
    for (size_t t = 0; t < b.lanes.size(); ++t) {
      const Lane& l = b.lanes[t];
      if (l.done) continue;
      const std::string barrier = l.barrier < 0 ? ""
                                                : "barrier " + std::to_string(l.barrier) + ", phase " +
                                                      std::to_string(b.barriers[static_cast<size_t>(l.barrier)].phase) + ", ";
      groups[barrier + text(l.waiting)].push_back(static_cast<int>(t));
    }
    what += " in block " + std::to_string(b.index) + ":";
    for (const auto& [place, threads] : groups)
      what += " " + std::to_string(threads.size()) + " threads (" + std::to_string(threads.front()) + ".." +
              std::to_string(threads.back()) + ") wait in " + place + ";";
    what += " " + std::to_string(static_cast<int>(b.lanes.size()) - b.alive) + " threads have ended;";
  }
  throw Fault(what + " seed " + std::to_string(options().seed));
}

/// Lets threads run until none can, or one failed. False: none could from the start.
bool Launcher::run_one() {
  for (auto& b : resident_) {
    if (b->alive == 0 || !b->any_ready()) continue;
    Block* to = b.get();
    int thread = 0;
    block_ = to;
    choose(to, thread);
    enter(*to, thread);
    main_.switch_to(*to->fibers[static_cast<size_t>(thread)]);
    return true;
  }
  return false;
}

/// Replaces finished blocks by the next ones. False: no block is left.
bool Launcher::refill() {
  bool any = false;
  for (auto& b : resident_) {
    if (b->busy && b->alive == 0) finish(*b);
    if (!b->busy && next_block_ < order_.size()) start(*b, order_[next_block_++]);
    any |= b->busy;
  }
  return any;
}

void Launcher::run(int64_t blocks, int threads, int64_t shared_bytes, Body body, const void* params) {
  if (threads <= 0 || threads % 32 != 0 || threads > 1024) throw Fault("a block of " + std::to_string(threads) + " threads");
  body_ = body;
  params_ = params;
  threads_ = threads;
  shared_bytes_ = shared_bytes;
  failure_ = nullptr;
  ++launch_;
  random_.state = options().seed * 0x2545f4914f6cdd1du;
  statistics().shared_bytes = std::max(statistics().shared_bytes, shared_bytes);
  order_.resize(static_cast<size_t>(blocks));
  std::iota(order_.begin(), order_.end(), 0);
  if (options().shuffle_blocks)
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[static_cast<size_t>(random_.below(static_cast<int>(i)))]);
  next_block_ = 0;
  current.num_blocks = static_cast<int>(blocks);
  const auto resident = static_cast<size_t>(std::clamp<int64_t>(options().resident_blocks, 1, blocks));
  while (resident_.size() < resident) resident_.push_back(std::make_unique<Block>());
  resident_.resize(resident);
  for (auto& b : resident_) b->busy = false;
  try {
    while (refill()) {
      if (!run_one()) report_deadlock();
      if (failure_) std::rethrow_exception(failure_);
    }
  } catch (...) {
    acquire(&end_order_);
    for (auto& b : resident_) std::free(std::exchange(b->shared, nullptr));
    throw;
  }
  acquire(&end_order_);
}

void Launcher::count_conflicts(Block& b) {
  for (auto& [place, accesses] : b.shared_accesses) {
    std::map<int, std::map<size_t, std::vector<SharedAccess>>> by_warp;  // warp, how many times its lanes were here before
    std::map<int, size_t> turn;
    for (const SharedAccess& a : accesses) by_warp[a.thread / 32][turn[a.thread]++].push_back(a);
    int& worst = statistics().bank_conflicts[place];
    for (const auto& [warp, turns] : by_warp)
      for (const auto& [index, lanes] : turns) worst = std::max(worst, conflict_ways(lanes));
  }
  b.shared_accesses.clear();
}

}  // namespace longlora::emu
