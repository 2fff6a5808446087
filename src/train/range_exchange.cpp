#include "train/range_exchange.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/plan/exchange.h"
#include "train/rank_tensors.h"
#include "train/sparse_rows.h"

namespace longlora {
namespace {

constexpr int64_t kDense = -1;

std::vector<int64_t> elements_of(const std::vector<Parameter*>& trainable) {
  std::vector<int64_t> elements;
  for (const Parameter* p : trainable) elements.push_back(p->weight.numel());
  return elements;
}

bool has_rows(const Parameter& p) { return p.role == Role::embedding && p.weight.dim() == 2; }

RowWindow window(const Parameter& p, const BlockTable::Segment& s) { return {s.begin, s.count, p.weight.size(1)}; }

}  // namespace

int64_t Piece::elements() const {
  int64_t sum = 0;
  for (const BlockTable::Segment& s : segments) sum += s.count;
  return sum;
}

RangeExchange::RangeExchange(std::vector<Parameter*> trainable) : trainable_(std::move(trainable)), table_(elements_of(trainable_)) {}

std::vector<Piece> RangeExchange::pieces_of(BlockRange range, bool rows_alone) const {
  std::vector<Piece> pieces;
  for (const BlockTable::Segment& segment : table_.segments(range)) {
    const bool alone = rows_alone && has_rows(*trainable_[segment.parameter]);
    for (int64_t done = 0; done < segment.count; done += kPieceElements) {
      const BlockTable::Segment part{segment.parameter, segment.begin + done, std::min(kPieceElements, segment.count - done)};
      const bool fits = !pieces.empty() && !alone && !pieces.back().as_rows && pieces.back().elements() + part.count <= kPieceElements;
      if (!fits) pieces.push_back({.as_rows = alone});
      pieces.back().segments.push_back(part);
    }
  }
  return pieces;
}

at::Tensor RangeExchange::flat(const BlockTable::Segment& s, Of of) const {
  const Parameter& p = *trainable_[s.parameter];
  return (of == Of::gradients ? p.grad : p.weight).view({-1}).narrow(0, s.begin, s.count);
}

at::Tensor RangeExchange::packed(const Piece& piece, Of of) const {
  std::vector<at::Tensor> parts;
  for (const BlockTable::Segment& s : piece.segments) parts.push_back(flat(s, of));
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

void RangeExchange::unpack(const Piece& piece, const at::Tensor& from, Of of) const {
  int64_t at = 0;
  for (const BlockTable::Segment& s : piece.segments) {
    flat(s, of).copy_(from.narrow(0, at, s.count));
    at += s.count;
  }
}

void RangeExchange::add(const Piece& piece, const at::Tensor& message, int64_t num_rows) const {
  if (num_rows != kDense) {
    const BlockTable::Segment& s = piece.segments.front();
    const Parameter& p = *trainable_[s.parameter];
    add_rows(p.grad, window(p, s), message.narrow(0, 0, num_rows).view(at::kInt),
             message.narrow(0, num_rows, num_rows * p.weight.size(1)).view({num_rows, p.weight.size(1)}));
    return;
  }
  int64_t at = 0;
  for (const BlockTable::Segment& s : piece.segments) {
    flat(s, Of::gradients).add_(message.narrow(0, at, s.count));  // lower rank's + higher rank's: fp32 addition commutes
    at += s.count;
  }
}

void RangeExchange::add_from_peer(dist::Communicator& ranks, const HalvingRound& round) const {
  const std::vector<Piece> give = pieces_of(round.give, true), keep = pieces_of(round.keep, true);
  const at::TensorOptions fp32 = trainable_.front()->grad.options();
  std::vector<at::Tensor> rows(give.size());
  std::vector<int64_t> sent(give.size(), kDense), received(keep.size());
  for (size_t i = 0; i < give.size(); ++i) {
    if (!give[i].as_rows) continue;
    const BlockTable::Segment& s = give[i].segments.front();
    rows[i] = touched_rows(trainable_[s.parameter]->grad, window(*trainable_[s.parameter], s));
    if (rows[i].defined()) sent[i] = rows[i].numel();
  }
  ranks.exchange(round.peer, dist::bytes_of(std::span<const int64_t>(sent)), dist::writable_bytes_of(std::span(received)));
  for (size_t i = 0; i < std::max(give.size(), keep.size()); ++i) {
    at::Tensor out, in;
    if (i < give.size() && sent[i] == kDense) out = packed(give[i], Of::gradients);
    if (i < give.size() && sent[i] != kDense) {
      const BlockTable::Segment& s = give[i].segments.front();
      const Parameter& p = *trainable_[s.parameter];
      out = at::cat({rows[i].view(at::kFloat), take_rows(p.grad, window(p, s), rows[i]).view({-1})});
    }
    if (i < keep.size()) {
      const Parameter& p = *trainable_[keep[i].segments.front().parameter];
      LONGLORA_CHECK(received[i] == kDense || (keep[i].as_rows && received[i] >= 0 && received[i] <= p.weight.size(0)), peer,
                     "rank " + std::to_string(round.peer) + " announced " + std::to_string(received[i]) + " rows of " + p.name,
                     "gradient exchange", "run the same program with the same configuration on all ranks");
      in = at::empty({received[i] == kDense ? keep[i].elements() : received[i] * (1 + p.weight.size(1))}, fp32);
    }
    exchange(ranks, round.peer, out, in);
    if (i < keep.size()) add(keep[i], in, received[i]);
  }
}

void RangeExchange::gather(dist::Communicator& ranks, const std::vector<BlockRange>& owned, Of of) const {
  std::vector<std::vector<Piece>> pieces;
  size_t rounds = 0;
  for (const BlockRange& range : owned) {
    pieces.push_back(pieces_of(range, false));
    rounds = std::max(rounds, pieces.back().size());
  }
  const size_t me = static_cast<size_t>(ranks.rank());
  for (size_t i = 0; i < rounds; ++i) {
    int64_t width = 0;
    for (const auto& of_rank : pieces) width = std::max(width, i < of_rank.size() ? of_rank[i].elements() : 0);
    const at::Tensor all = at::empty({static_cast<int64_t>(owned.size()), width}, flat({0, 0, 0}, of).options());
    if (i < pieces[me].size()) all[ranks.rank()].narrow(0, 0, pieces[me][i].elements()).copy_(packed(pieces[me][i], of));
    all_gather(ranks, all[ranks.rank()], all);
    for (size_t r = 0; r < owned.size(); ++r)
      if (r != me && i < pieces[r].size()) unpack(pieces[r][i], all[static_cast<int64_t>(r)], of);
  }
}

}  // namespace longlora
