#pragma once
// Tasks on the process pool: which tasks exist depends on the layout only, which thread runs one does not matter.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace longlora::attention {

enum class Workers { pool, caller };  // caller: waking the pool costs more than the work

/// For a call of at most so many multiply-adds (about 20 microseconds) the caller works alone.
inline Workers workers_for(int64_t multiply_adds) { return multiply_adds < (int64_t{1} << 20) ? Workers::caller : Workers::pool; }

/// task(i) for every i in [0, count), lowest first, each once; a thread that is done takes the next (tasks differ in length).
template <class Task>
void run_tasks(Workers who, int64_t count, Task&& task) {
  std::atomic<int64_t> next{0};
  const int64_t workers = who == Workers::caller ? 1 : std::min<int64_t>(at::get_num_threads(), count);
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i = next++; i < count; i = next++) task(i);
    }
  });
}

}  // namespace longlora::attention
