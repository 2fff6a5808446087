#include "model/gathered_store.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/ops/memory_counter.h"
#include "model/device_bytes.h"

namespace longlora {
namespace {

LayerWeights views_of(const at::Tensor& whole, const WeightParts& parts, const ModelConfig& c) {
  enum { kQ, kK, kV, kO, kGate, kUp, kDown, kTensors };
  LONGLORA_INVARIANT(parts.tensors().size() == kTensors);
  const auto matrix = [&](int first, int64_t rows, int64_t columns) {
    return whole.narrow(0, parts.tensors()[static_cast<size_t>(first)].begin, rows * columns).view({rows, columns});
  };
  return {matrix(kQ, c.q_width() + 2 * c.kv_width(), c.hidden_size), matrix(kO, c.hidden_size, c.q_width()),
          matrix(kGate, 2 * c.intermediate_size, c.hidden_size), matrix(kDown, c.hidden_size, c.intermediate_size)};
}

}  // namespace

at::Tensor GatheredStore::make_part(const WeightParts& parts, const at::TensorOptions& options, const dist::Communicator& ranks) {
  const MemoryTag tag(Component::weights);
  const int64_t elements = parts.part_bytes() / parts.element_bytes();
  if (options.device().is_cpu() || ranks.takes_device_memory()) return at::zeros({elements}, options);
  return accelerator::staging({elements}, c10::typeMetaToScalarType(options.dtype())).zero_();
}

GatheredStore::GatheredStore(const ModelConfig& config, const WeightParts& layout, std::vector<at::Tensor> parts, const at::Device& device,
                             dist::Communicator& ranks)
    : parts_(std::move(parts)), ranks_(ranks) {
  const MemoryTag tag(Component::weights);
  const int64_t elements = layout.layer_bytes() / layout.element_bytes();
  const at::TensorOptions options = parts_.front().options().device(device).pinned_memory(false);
  slots_.resize(std::min<size_t>(2, parts_.size()));
  for (Slot& slot : slots_) {
    slot.whole = at::empty({elements}, options);
    slot.views = views_of(slot.whole, layout, config);
  }
  if (!device.is_cpu()) side_ = std::make_unique<accelerator::SideQueue>(device);
  if (!device.is_cpu() && parts_.front().is_cpu()) staging_ = accelerator::staging({elements}, c10::typeMetaToScalarType(options.dtype()));
  if (device.is_cpu() || staging_.defined()) thread_ = std::thread([this] { work(); });
}

GatheredStore::~GatheredStore() {
  const bool within_a_pass = std::any_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.acquired || s.awaited; });
  if (within_a_pass) ranks_.abort("a rank left in the middle of a pass");
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      tasks_.clear();
    }
    changed_.notify_all();
    thread_.join();
  }
  if (side_) side_->synchronize();  // the buffers are not free before
}

GatheredStore::Slot* GatheredStore::holder(int64_t layer) {
  const auto found = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.layer == layer; });
  return found == slots_.end() ? nullptr : &*found;
}

GatheredStore::Slot* GatheredStore::oldest_free() {
  Slot* oldest = nullptr;
  for (Slot& slot : slots_)
    if (!slot.acquired && (oldest == nullptr || slot.used < oldest->used)) oldest = &slot;
  return oldest;
}

void GatheredStore::prefetch(int64_t layer) {
  if (layer < 0 || layer >= static_cast<int64_t>(parts_.size())) return;
  Slot* slot = holder(layer);
  if (slot == nullptr && (slot = oldest_free()) != nullptr) ask(*slot, layer);
  if (slot == nullptr) return;
  slot->used = ++asked_;
  slot->awaited = !slot->acquired;
}

LayerWeights GatheredStore::acquire(int64_t layer) {
  Slot* slot = holder(layer);
  if (slot == nullptr) {
    slot = oldest_free();
    LONGLORA_INVARIANT(slot != nullptr);  // an earlier pass ended within a layer, or three layers are acquired
    ask(*slot, layer);
  }
  slot->used = ++asked_;
  slot->acquired = true;
  slot->awaited = false;
  wait(slot->task);
  if (side_) side_->lead_current();
  return slot->views;
}

void GatheredStore::release(int64_t layer) {
  Slot* slot = holder(layer);
  LONGLORA_INVARIANT(slot != nullptr && slot->acquired);
  slot->acquired = false;
}

void GatheredStore::sum(std::span<int64_t> values) {
  wait(post([this, values] { ranks_.sum(values); }));
}

/// The slot's last reader is enqueued on the device already, and the next layer's computation is not: the gather runs beside it.
void GatheredStore::ask(Slot& slot, int64_t layer) {
  slot.layer = -1;
  if (side_) side_->follow_current();
  slot.task = post([this, &slot, layer] { gather(slot, layer); });
  slot.layer = layer;
}

void GatheredStore::gather(Slot& slot, int64_t layer) {
  at::Tensor& to = staging_.defined() ? staging_ : slot.whole;
  ranks_.all_gather(const_bytes_of(parts_[static_cast<size_t>(layer)]), bytes_of(to), side_ ? side_->stream() : nullptr);
  if (!staging_.defined()) return;
  side_->copy(slot.whole, staging_);
  side_->synchronize();
}

uint64_t GatheredStore::post(std::function<void()> task) {
  if (!thread_.joinable()) {
    task();
    return 0;
  }
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_all();
  return ++posted_;
}

void GatheredStore::wait(uint64_t task) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || done_ >= task; });
  if (done_ < task) std::rethrow_exception(failure_);
}

void GatheredStore::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
    if (stop_ || failure_) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    std::exception_ptr error;
    try {
      task();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error)
      failure_ = error;
    else
      ++done_;
    changed_.notify_all();
  }
}

}  // namespace longlora
