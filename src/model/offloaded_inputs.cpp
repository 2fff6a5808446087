#include "model/offloaded_inputs.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/plan/layer_memory.h"

namespace longlora {

OffloadedInputs::OffloadedInputs(const at::Device& device) : device_(device) {}

void OffloadedInputs::reserve(int64_t bytes) {
  if (bytes == this->bytes()) return;
  release();
  const MemoryTag tag(Component::offloaded_inputs);
  if (bytes == 0) return;
  host_ = device_.is_cpu() ? at::empty({bytes}, at::TensorOptions().dtype(at::kByte)) : accelerator::host_block(bytes);
}

void OffloadedInputs::release() {
  if (side_) side_->synchronize();  // copies may still be on their way
  inputs_.clear();
  host_ = at::Tensor();
}

void OffloadedInputs::begin(const std::vector<bool>& layers, int64_t rows, int64_t width, const at::TensorOptions& options) {
  const auto count = std::ranges::count(layers, true);
  inputs_.assign(layers.size(), {});
  if (count == 0) return;
  if (!device_.is_cpu() && !side_) side_ = std::make_unique<accelerator::SideQueue>(device_);
  const int64_t bytes = rows * width * static_cast<int64_t>(options.dtype().itemsize());
  if (count * aligned(bytes) > this->bytes()) reserve(count * aligned(bytes));
  int64_t at = 0;
  inputs_.resize(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    if (!layers[l]) continue;
    inputs_[l] = host_.narrow(0, at, bytes).view(c10::typeMetaToScalarType(options.dtype())).view({rows, width});
    at += aligned(bytes);
  }
}

at::Tensor OffloadedInputs::on_host(const Piece& piece) const {
  return inputs_[static_cast<size_t>(piece.layer)].narrow(0, piece.first_row, piece.rows);
}

void OffloadedInputs::keep(int64_t layer, int64_t first_row, const at::Tensor& x_RC) {
  at::Tensor to = on_host({layer, first_row, x_RC.size(0)});
  if (!side_) {
    to.copy_(x_RC);
    return;
  }
  side_->follow_current();
  side_->copy(to, x_RC);
}

void OffloadedInputs::let_overwrite() {
  if (side_) side_->lead_current();
}

void OffloadedInputs::begin_return(std::vector<Piece> pieces, int64_t slots, Arena& arena) {
  end_return();
  pieces_ = std::move(pieces);
  if (pieces_.empty() || device_.is_cpu()) return;
  int64_t most_rows = 0;
  for (const Piece& piece : pieces_) most_rows = std::max(most_rows, piece.rows);
  const at::Tensor& any = inputs_[static_cast<size_t>(pieces_.front().layer)];
  for (int64_t i = 0; i < slots; ++i)
    slots_.push_back(arena.take(Arena::End::top, {most_rows, any.size(1)}, any.options().device(device_)));
  bring(0);
}

at::Tensor OffloadedInputs::slot_of(size_t piece) const { return slots_[piece % slots_.size()].narrow(0, 0, pieces_[piece].rows); }

/// What read the slot before is enqueued already, what reads it now is not: the copy runs between them, beside the computation.
void OffloadedInputs::bring(size_t piece) {
  if (piece != brought_ || piece >= pieces_.size() || piece >= dropped_ + slots_.size()) return;
  at::Tensor to = slot_of(piece);
  side_->follow_current();
  side_->copy(to, on_host(pieces_[piece]));
  ++brought_;
}

at::Tensor OffloadedInputs::fetch(int64_t layer, int64_t first_row) {
  LONGLORA_INVARIANT(fetched_ < pieces_.size() && pieces_[fetched_].layer == layer && pieces_[fetched_].first_row == first_row);
  const size_t piece = fetched_++;
  if (device_.is_cpu()) return on_host(pieces_[piece]);
  bring(piece);
  LONGLORA_INVARIANT(piece < brought_);
  side_->lead_current();
  bring(piece + 1);
  return slot_of(piece);
}

void OffloadedInputs::end_return() {
  if (brought_ > fetched_) side_->synchronize();  // nobody waited for the newest copy, and its slot may be freed
  pieces_.clear();
  slots_.clear();
  brought_ = fetched_ = dropped_ = 0;
}

void OffloadedInputs::drop() {
  LONGLORA_INVARIANT(dropped_ < fetched_);
  ++dropped_;
}

}  // namespace longlora
