// Forward and backward of a step in the memory there is: after an allocation that failed, all ranks keep less and compute the same rows
// again, or all end.
#include <string_view>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/train/trainer.h"
#include "train/together.h"

namespace longlora {
namespace {

/// accelerator::host_block names its key, LibTorch's host allocator itself; everything else was the device.
ShortOf short_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error.where == "memory.host_budget" ? ShortOf::host_memory : ShortOf::device_memory;
  } catch (const std::exception& error) {
    const bool of_host = std::string_view(error.what()).find("DefaultCPUAllocator") != std::string_view::npos;
    return of_host ? ShortOf::host_memory : ShortOf::device_memory;
  }
}

}  // namespace

/// The others wait for this rank inside the pass and cannot be asked.
void Trainer::end_all(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    all_.abort("rank " + std::to_string(all_.rank()) + " cannot go on: " + error.what());
    throw;
  }
}

[[noreturn]] void Trainer::out_of_memory(const std::exception_ptr& failure) const {
  if (failure) std::rethrow_exception(failure);
  fail(ErrorKind::memory, "another rank ran out of memory", "step " + std::to_string(progress_.step + 1), "see the last line of that rank");
}

/// A cheaper policy on all ranks, or the end of the run on all.
void Trainer::keep_less(const std::exception_ptr& failure) {
  model_.release();
  // ranks of one host share its memory: where one finds it short, none may ask for more of it
  const bool of_host = any_rank(reducer_.ranks(), failure && short_of(failure) == ShortOf::host_memory);
  const bool has_cheaper = keep_less_ && keep_less_(of_host ? ShortOf::host_memory : ShortOf::device_memory);
  if (any_rank(reducer_.ranks(), !has_cheaper)) out_of_memory(failure);
  ++step_downs_;
  log_warning("step {} ran out of memory: its rows are computed again, less is kept from now on", progress_.step + 1);
}

std::vector<LossSum> Trainer::accumulate_within_memory(const std::vector<TokenBatch>& shards, int64_t targets) {
  constexpr int kStepDowns = 3;  // a run
  for (;;) {
    std::vector<LossSum> losses;
    std::exception_ptr failure;
    try {
      losses = accumulate(shards, targets);
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure && coupled_) end_all(failure);
    if (!reducer_.agree_on_failure(failure, progress_.step + 1)) return losses;
    if (config_.memory.on_oom == OnOom::stop || step_downs_ == kStepDowns) out_of_memory(failure);
    keep_less(failure);
  }
}

}  // namespace longlora
