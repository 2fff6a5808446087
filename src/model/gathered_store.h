#pragma once
// Frozen projections that ranks share: every rank keeps one part of each layer, and two layers are whole at a time (docs/distributed.md,
// "Frozen weights on several ranks").
#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "longlora/dist/communicator.h"
#include "longlora/ops/accelerator.h"
#include "longlora/plan/weight_parts.h"
#include "model/layer_store.h"

namespace longlora {

/// A layer that is not whole here is gathered when it is asked for, in the order of the questions; so all ranks of the communicator ask in
/// the same order: they make the same passes. Gathered layers stay until their buffer is needed: backward finds the last two of forward.
///
/// Who calls the communicator: a thread of the store's own, which waits for the peers while the model computes. A transport that takes
/// device memory is asked to enqueue on a side stream instead, by the thread that computes, as all its launches are. The communicator
/// serves nothing else: messages of the model's thread would have no order among the store's.
class GatheredStore final : public LayerStore {
 public:
  /// `parts[l]`: this rank's part of layer l, flat, in memory that the transport takes (`memory_of_parts`). What they hold may not change
  /// after the first acquire.
  GatheredStore(const ModelConfig&, const WeightParts&, std::vector<at::Tensor> parts, const at::Device&, dist::Communicator&);
  /// In the middle of a pass (an exception is on its way): the peers' waits are ended, this rank will not come to the next gather.
  ~GatheredStore() override;

  /// An error of a gather is thrown here, by this call and all that follow.
  LayerWeights acquire(int64_t layer) override;
  void release(int64_t layer) override;
  void prefetch(int64_t layer) override;
  void sum(std::span<int64_t>) override;

  /// Zeros for one part, on `device` or page-locked on the host.
  static at::Tensor make_part(const WeightParts&, const at::TensorOptions&, const dist::Communicator&);

 private:
  struct Slot {
    at::Tensor whole;
    LayerWeights views;
    int64_t layer = -1;                      // which it holds or will hold
    uint64_t task = 0;                       // after which it does
    uint64_t used = 0;                       // when it was last asked for
    bool acquired = false, awaited = false;  // awaited: prefetched, not yet acquired
  };
  Slot* holder(int64_t layer);
  Slot* oldest_free();
  void ask(Slot&, int64_t layer);
  void gather(Slot&, int64_t layer);
  uint64_t post(std::function<void()>);
  void wait(uint64_t task);
  void work();

  std::vector<at::Tensor> parts_;
  dist::Communicator& ranks_;
  std::vector<Slot> slots_;  // two, or one where the model has one layer
  uint64_t asked_ = 0;
  std::unique_ptr<accelerator::SideQueue> side_;  // of a GPU
  at::Tensor staging_;                            // page-locked, one layer: a GPU behind a transport of host memory

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  uint64_t posted_ = 0, done_ = 0;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;  // not started where gathers are enqueued on the device
};

}  // namespace longlora
