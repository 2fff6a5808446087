#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/data/dataset.h"

namespace longlora {
namespace {

struct StepBatches {
  uint64_t first_row = 0;
  std::vector<TokenBatch> shards;
  std::exception_ptr error;
};

}  // namespace

struct BatchLoader::State {
  const Dataset& dataset;
  const Sampler sampler;
  const int64_t global_batch, micro_batch, first_shard, num_shards;
  const size_t prefetch;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<StepBatches> ready;       // consecutive steps, the front is the one that is wanted next
  uint64_t next_to_build = 0;          // first row of the step the thread builds next
  uint64_t generation = 0;             // raised when the position jumps: a step built for the old one is thrown away
  bool started = false, stopping = false;
  double wait_seconds = 0;
  std::thread thread;

  TokenBatch build_shard(uint64_t first_row) const {
    TokenBatch batch;
    for (int64_t r = 0; r < micro_batch; ++r) {
      const uint64_t g = first_row + static_cast<uint64_t>(r);
      const RowPlace place = sampler.place(g);
      dataset.append_row(place.source, place.row, batch);
      batch.global_rows.push_back(g);
    }
    return batch;
  }

  StepBatches build(uint64_t first_row) const {
    StepBatches step{.first_row = first_row};
    try {
      for (int64_t j = first_shard; j < first_shard + num_shards; ++j)
        step.shards.push_back(build_shard(first_row + static_cast<uint64_t>(j * micro_batch)));
    } catch (...) {
      step.error = std::current_exception();
    }
    return step;
  }

  /// Where the thread waits: nothing to do before the first call, when enough is ready, or behind a failed step.
  bool has_work() const { return started && ready.size() < prefetch && (ready.empty() || !ready.back().error); }

  void run() {
    sigset_t all;                      // signals are the main thread's business
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return stopping || has_work(); });
      if (stopping) return;
      const uint64_t row = next_to_build, built_for = generation;
      lock.unlock();
      StepBatches step = build(row);
      lock.lock();
      if (built_for != generation) continue;
      ready.push_back(std::move(step));
      next_to_build = row + static_cast<uint64_t>(global_batch);
      changed.notify_all();
    }
  }

  /// Throws away what was built for another position.
  void move_to(uint64_t row) {
    const bool expected = started && (ready.empty() ? next_to_build == row : ready.front().first_row == row);
    if (expected) return;
    ready.clear();
    next_to_build = row;
    ++generation;
    started = true;
    changed.notify_all();
  }

  StepBatches take(uint64_t row) {
    std::unique_lock lock(mutex);
    move_to(row);
    changed.wait(lock, [&] { return !ready.empty(); });
    StepBatches step = std::move(ready.front());
    ready.pop_front();
    if (step.error) started = false;   // the same step may be asked for again: it is built anew
    changed.notify_all();
    return step;
  }
};

BatchLoader::BatchLoader(const Dataset& dataset, Sampler sampler, int64_t global_batch, int64_t micro_batch, int64_t first_shard,
                         int64_t num_shards, int64_t prefetch) {
  LONGLORA_INVARIANT(micro_batch > 0 && global_batch % micro_batch == 0 && prefetch >= 0);
  LONGLORA_INVARIANT(first_shard >= 0 && num_shards > 0 && (first_shard + num_shards) * micro_batch <= global_batch);
  state_.reset(new State{.dataset = dataset, .sampler = std::move(sampler), .global_batch = global_batch, .micro_batch = micro_batch,
                         .first_shard = first_shard, .num_shards = num_shards, .prefetch = static_cast<size_t>(prefetch)});
  if (prefetch > 0) state_->thread = std::thread([state = state_.get()] { state->run(); });
}

BatchLoader::~BatchLoader() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

std::vector<TokenBatch> BatchLoader::step(uint64_t next_row) {
  const double begin = monotonic_seconds();
  StepBatches step = state_->prefetch > 0 ? state_->take(next_row) : state_->build(next_row);
  state_->wait_seconds += monotonic_seconds() - begin;
  if (step.error) std::rethrow_exception(step.error);
  return std::move(step.shards);
}

double BatchLoader::wait_seconds() const { return state_->wait_seconds; }

}  // namespace longlora
