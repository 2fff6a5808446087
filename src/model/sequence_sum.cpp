#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <vector>

#include "longlora/model/sequence.h"
#include "longlora/plan/exchange.h"
#include "model/device_bytes.h"

namespace longlora {
namespace {

/// All gradients one after another, read and written in pieces of one flat range.
class FlatGradients {
 public:
  explicit FlatGradients(std::span<Parameter* const> trainable) {
    for (const Parameter* p : trainable) {
      LONGLORA_INVARIANT(p->grad.scalar_type() == at::kFloat && p->grad.is_contiguous());
      parts_.push_back({size_, p->grad.view({-1})});
      size_ += p->grad.numel();
    }
  }
  int64_t size() const { return size_; }
  at::TensorOptions options() const { return parts_.front().flat.options(); }

  /// f(piece of a gradient, its place in the range) for [begin, begin + count).
  template <class F>
  void for_pieces(int64_t begin, int64_t count, F&& f) const {
    for (const Part& part : parts_) {
      const int64_t from = std::max(begin, part.begin), to = std::min(begin + count, part.begin + part.flat.numel());
      if (from < to) f(part.flat.narrow(0, from - part.begin, to - from), from - begin);
    }
  }

 private:
  struct Part {
    int64_t begin;
    at::Tensor flat;
  };
  std::vector<Part> parts_;
  int64_t size_ = 0;
};

/// Each rank adds one part of `values` and hands the sums to all. values [P * n]; gathered [P, n].
void add_values(at::Tensor& values, at::Tensor& gathered, dist::Communicator& group) {
  const int rank = group.rank(), size = group.size();
  const int64_t count = values.numel() / size;
  gathered.select(0, rank).copy_(values.narrow(0, rank * count, count));
  for (int round = 1; round < size; ++round) {
    const int peer = rank ^ round;
    at::Tensor in = gathered.select(0, peer);
    group.exchange(peer, const_bytes_of(values.narrow(0, peer * count, count)), bytes_of(in), stream_of(values));
  }
  at::Tensor sum = gathered.select(0, 0);
  for (int r = 1; r < size; ++r) sum.add_(gathered.select(0, r));
  group.all_gather(const_bytes_of(sum), bytes_of(values), stream_of(values));
}

void add_loss(LossSum& loss, dist::Communicator& group) {
  std::array<int64_t, 1> targets = {loss.targets};
  group.sum(targets);
  loss.targets = targets[0];
  const bool on_device = loss.pending.defined();
  at::Tensor mine = on_device ? loss.pending.contiguous() : at::empty({1}, at::TensorOptions().dtype(at::kDouble));
  if (!on_device) *mine.data_ptr<double>() = loss.nll_sum;
  at::Tensor all = at::empty({group.size()}, mine.options());
  group.all_gather(const_bytes_of(mine), bytes_of(all), stream_of(mine));
  at::Tensor sum = all.narrow(0, 0, 1);
  for (int r = 1; r < group.size(); ++r) sum.add_(all.narrow(0, r, 1));
  if (on_device)
    loss.pending = sum;
  else
    loss.nll_sum = *sum.data_ptr<double>();
}

}  // namespace

void add_over_sequence_ranks(std::span<Parameter* const> trainable, LossSum& loss, dist::Communicator& group) {
  const int size = group.size();
  LONGLORA_INVARIANT(size > 0 && (size & (size - 1)) == 0);
  if (size == 1) return;
  add_loss(loss, group);
  if (trainable.empty()) return;
  const FlatGradients gradients(trainable);
  const int64_t most = (std::min(gradients.size(), kSequenceSumElements) + size - 1) / size * size;
  at::Tensor storage = at::empty({most}, gradients.options()), gathered_storage = at::empty({most}, gradients.options());
  for (int64_t begin = 0; begin < gradients.size(); begin += most) {
    const int64_t count = std::min(most, gradients.size() - begin), padded = (count + size - 1) / size * size;
    at::Tensor values = storage.narrow(0, 0, padded), gathered = gathered_storage.narrow(0, 0, padded).view({size, padded / size});
    values.narrow(0, count, padded - count).zero_();
    gradients.for_pieces(begin, count, [&](const at::Tensor& piece, int64_t at) { values.narrow(0, at, piece.numel()).copy_(piece); });
    add_values(values, gathered, group);
    gradients.for_pieces(begin, count, [&](const at::Tensor& piece, int64_t at) { piece.copy_(values.narrow(0, at, piece.numel())); });
  }
}

}  // namespace longlora
