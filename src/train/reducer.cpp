#include "longlora/train/reducer.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "longlora/checkpoint/tensor_bytes.h"
#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/ops/optimizer.h"
#include "train/block_table.h"
#include "train/range_exchange.h"
#include "train/rank_tensors.h"
#include "train/together.h"

namespace longlora {
namespace {

bool is_power_of_two(int64_t n) { return std::has_single_bit(static_cast<uint64_t>(n)); }

/// Sums over ranks that no rank but the owner of a node's leftmost shard holds (docs/distributed.md, "One sum").
class SubtreeSums {
 public:
  using Buffers = GradientTree::Buffers;
  SubtreeSums(dist::Communicator& ranks, GradientTree& tree, int64_t shards)
      : ranks_(ranks), tree_(tree), shards_(shards), per_rank_(shards / ranks.size()) {
    for (GradientTree::Subtree& subtree : tree.take_subtrees()) nodes_[{subtree.level, subtree.index}] = std::move(subtree.gradients);
  }

  /// The root at rank 0 in Parameter::grad, then everywhere.
  void finish(const std::vector<Parameter*>& trainable) {
    int level = 0;
    while ((int64_t{1} << level) < shards_) {
      ++level;
      for (int64_t i = 0; i << level < shards_; ++i) make_node(level, i);
    }
    for (size_t p = 0; p < trainable.size(); ++p) {
      if (ranks_.rank() == 0) trainable[p]->grad.copy_(nodes_.at({level, 0})[p]);
      broadcast(ranks_, 0, trainable[p]->grad);
    }
    for (auto& [place, buffers] : nodes_) tree_.give_back(std::move(buffers));
  }

 private:
  int owner(int level, int64_t index) const { return static_cast<int>((index << level) / per_rank_); }

  void make_node(int level, int64_t index) {
    const std::pair<int, int64_t> left{level - 1, 2 * index}, right{level - 1, 2 * index + 1};
    const bool has_right = right.second << (level - 1) < shards_;
    const int to = owner(left.first, left.second), from = has_right ? owner(right.first, right.second) : to;
    if (ranks_.rank() == from && from != to) return give(right, to);
    if (ranks_.rank() != to || !nodes_.contains(left)) return;  // another rank's, or inside a subtree that is finished already
    if (from != to)
      add_from(from, nodes_.at(left));
    else if (has_right)
      add_own(nodes_.at(left), right);
    auto moved = nodes_.extract(left);
    moved.key() = {level, index};
    nodes_.insert(std::move(moved));
  }

  void give(const std::pair<int, int64_t>& node, int to) {
    auto found = nodes_.extract(node);
    for (const at::Tensor& part : found.mapped()) send(ranks_, to, part);
    tree_.give_back(std::move(found.mapped()));
  }

  void add_from(int from, Buffers& sum) {
    Buffers received = tree_.spare_buffers();
    for (size_t p = 0; p < sum.size(); ++p) {
      receive(ranks_, from, received[p]);
      sum[p].add_(received[p]);
    }
    tree_.give_back(std::move(received));
  }

  void add_own(Buffers& sum, const std::pair<int, int64_t>& right) {
    auto found = nodes_.extract(right);
    for (size_t p = 0; p < sum.size(); ++p) sum[p].add_(found.mapped()[p]);
    tree_.give_back(std::move(found.mapped()));
  }

  dist::Communicator& ranks_;
  GradientTree& tree_;
  int64_t shards_, per_rank_;
  std::map<std::pair<int, int64_t>, Buffers> nodes_;
};

}  // namespace

struct Reducer::State {
  dist::Communicator& ranks;
  std::vector<Parameter*> trainable;
  int64_t shards;
  bool sharded;
  RangeExchange exchange;
  std::vector<BlockRange> owned;  // by rank

  int me() const { return ranks.rank(); }
  bool alone() const { return ranks.size() == 1; }
  const BlockRange& mine() const { return owned[static_cast<size_t>(me())]; }

  void keep_own_state() const;
  std::vector<double> numbers_of_all(const std::vector<LossSum>& losses, std::vector<double>& nll) const;
};

/// Masters become slices of flat masters: of the weight itself where that is the master.
void Reducer::State::keep_own_state() const {
  const MemoryTag tag(Component::optimizer_and_gradient);
  for (Parameter* p : trainable) p->owned_begin = 0;
  std::vector<BlockTable::Segment> mine_of(trainable.size(), {0, 0, 0});
  for (const BlockTable::Segment& s : exchange.table().segments(mine())) mine_of[s.parameter] = s;
  for (size_t i = 0; i < trainable.size(); ++i) {
    Parameter& p = *trainable[i];
    LONGLORA_INVARIANT(p.master.defined() && !p.adam_m.defined());
    const bool is_weight = p.master.data_ptr() == p.weight.data_ptr();
    const at::Tensor slice = p.master.view({-1}).narrow(0, mine_of[i].begin, mine_of[i].count);
    p.master = is_weight ? slice : slice.clone();
    p.owned_begin = mine_of[i].begin;
  }
}

Reducer::Reducer(dist::Communicator& ranks, std::vector<Parameter*> trainable, int64_t shards, bool shard_state)
    : state_(new State{ranks, trainable, shards, shard_state && ranks.size() > 1, RangeExchange(trainable), {}}) {
  LONGLORA_INVARIANT(shards % ranks.size() == 0);
  for (int r = 0; r < ranks.size(); ++r) state_->owned.push_back(owned_blocks(state_->exchange.table().num_blocks(), r, ranks.size()));
  if (state_->sharded) state_->keep_own_state();
  if (ranks.rank() == 0 && ranks.size() > 1 && !(is_power_of_two(ranks.size()) && is_power_of_two(shards / ranks.size())))
    log_notice("{} shards on {} ranks: whole gradients are sent; powers of two need half the traffic", shards, ranks.size());
}
Reducer::~Reducer() = default;

dist::Communicator& Reducer::ranks() { return state_->ranks; }
int64_t Reducer::first_shard() const { return state_->shards / state_->ranks.size() * state_->me(); }
bool Reducer::is_root() const { return state_->me() == 0; }

/// Losses of all shards and square sums of all blocks in their order, the same on every rank: one message, one wait for a device.
std::vector<double> Reducer::State::numbers_of_all(const std::vector<LossSum>& losses, std::vector<double>& nll) const {
  const auto doubles = trainable.front()->grad.options().dtype(at::kDouble);
  const at::Tensor sums = at::empty({mine().size()}, doubles);
  int64_t first = 0;
  for (const BlockTable::Segment& s : exchange.table().segments(mine())) {
    const int64_t count = norm_blocks(s.count);
    block_square_sums(trainable[s.parameter]->grad.view({-1}).narrow(0, s.begin, s.count), sums.narrow(0, first, count));
    first += count;
  }
  std::vector<at::Tensor> parts;
  for (const LossSum& loss : losses)
    parts.push_back(loss.pending.defined() ? loss.pending.view({1}) : at::full({1}, loss.nll_sum, doubles));
  int64_t width = 0;
  for (const BlockRange& range : owned) width = std::max(width, range.size());
  parts.push_back(sums);
  parts.push_back(at::zeros({width - mine().size()}, doubles));
  const at::Tensor numbers = at::cat(parts).cpu();
  const at::Tensor all = at::empty({ranks.size(), numbers.numel()}, numbers.options());
  all_gather(ranks, numbers, all);

  std::vector<double> blocks(static_cast<size_t>(exchange.table().num_blocks()));
  const int64_t per_rank = static_cast<int64_t>(losses.size());
  for (int r = 0; r < ranks.size(); ++r) {
    const double* from = all.const_data_ptr<double>() + r * numbers.numel();
    nll.insert(nll.end(), from, from + per_rank);
    const BlockRange& range = owned[static_cast<size_t>(r)];
    std::copy_n(from + per_rank, range.size(), blocks.begin() + range.begin);
  }
  return blocks;
}

UpdateGate Reducer::reduce(GradientTree& tree, const std::vector<LossSum>& losses, double clip_norm) {
  State& s = *state_;
  if (s.alone()) {
    tree.finish();
    return update_gate(tree_sum(losses), s.trainable, clip_norm);
  }
  if (is_power_of_two(s.ranks.size()) && is_power_of_two(s.shards / s.ranks.size())) {
    tree.finish();
    for (const HalvingRound& round : halving_rounds(s.exchange.table().num_blocks(), s.me(), s.ranks.size()))
      s.exchange.add_from_peer(s.ranks, round);
    if (!s.sharded) gather_gradients();
  } else {
    SubtreeSums(s.ranks, tree, s.shards).finish(s.trainable);
  }
  std::vector<double> nll;
  std::vector<double> blocks = s.numbers_of_all(losses, nll);
  return gate_of(tree_sum(std::move(nll)), std::sqrt(tree_sum(std::move(blocks))), s.trainable, clip_norm);
}

void Reducer::gather_gradients() {
  if (!state_->alone()) state_->exchange.gather(state_->ranks, state_->owned, RangeExchange::Of::gradients);
}

void Reducer::refresh_weights() {
  if (state_->sharded) state_->exchange.gather(state_->ranks, state_->owned, RangeExchange::Of::weights);
}

bool Reducer::agree_on_failure(const std::exception_ptr& mine, int64_t step) {
  State& s = *state_;
  constexpr int64_t kRanks = 1 << 20;  // the largest code wins, then the lowest rank
  int64_t code = 0, out_of_memory = 0;
  if (mine) {
    try {
      std::rethrow_exception(mine);
    } catch (const std::exception& error) {
      const auto* ours = dynamic_cast<const Error*>(&error);
      if (is_out_of_memory(error))
        out_of_memory = 1;
      else if (ours != nullptr && ours->kind == ErrorKind::peer)
        throw;  // the transport is dead: there is nobody to agree with
      else
        code = exit_code(ours != nullptr ? ours->kind : ErrorKind::internal).code;
    }
  }
  int64_t flags[2] = {code == 0 ? 0 : code * kRanks + (kRanks - 1 - s.me()), out_of_memory};
  s.ranks.max(flags);
  if (flags[0] == 0) return flags[1] != 0;
  if (mine && code != 0) std::rethrow_exception(mine);
  const int64_t finder = kRanks - 1 - flags[0] % kRanks;
  fail(kind_of_code(flags[0] / kRanks).value_or(ErrorKind::internal), "rank " + std::to_string(finder) + " could not compute this step",
       "rank " + std::to_string(s.me()) + " step " + std::to_string(step), "see the last line of rank " + std::to_string(finder));
}

void Reducer::check_replicas() {
  State& s = *state_;
  if (s.alone()) return;
  std::vector<uint64_t> mine;
  for (const Parameter* p : s.trainable) {
    const StateLanes lanes = lanes_of(p->weight);
    mine.insert(mine.end(), lanes.lane.begin(), lanes.lane.end());
  }
  std::vector<uint64_t> all(mine.size() * static_cast<size_t>(s.ranks.size()));
  s.ranks.all_gather(dist::bytes_of(std::span<const uint64_t>(mine)), dist::writable_bytes_of(std::span(all)));
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] == all[i % mine.size()]) continue;
    fail(ErrorKind::internal, "weights differ from rank 0's",
         s.trainable[i % mine.size() / 2]->name + ", rank " + std::to_string(i / mine.size()),
         "look for a faulty device, then run the same command again: it goes on from the last checkpoint");
  }
}

at::Tensor Reducer::whole(const Parameter& parameter, const at::Tensor& mine) {
  State& s = *state_;
  if (!s.sharded) return is_root() ? on_host(mine) : at::Tensor();
  if (!is_root()) {
    if (mine.numel() > 0) send(s.ranks, 0, on_host(mine));
    return {};
  }
  const at::Tensor all = at::empty(parameter.weight.sizes(), at::TensorOptions().dtype(at::kFloat));
  all.view({-1}).narrow(0, parameter.owned_begin, mine.numel()).copy_(mine);
  for (int r = 1; r < s.ranks.size(); ++r) {
    for (const BlockTable::Segment& segment : s.exchange.table().segments(s.owned[static_cast<size_t>(r)])) {
      if (s.trainable[segment.parameter] == &parameter) receive(s.ranks, r, all.view({-1}).narrow(0, segment.begin, segment.count));
    }
  }
  return all;
}

void Reducer::add(std::vector<StateLanes>& lanes) {
  State& s = *state_;
  if (!s.sharded) return;
  std::vector<StateLanes> all(lanes.size() * static_cast<size_t>(s.ranks.size()));
  s.ranks.all_gather(dist::bytes_of(std::span<const StateLanes>(lanes)), dist::writable_bytes_of(std::span(all)));
  lanes.assign(lanes.size(), {});
  for (size_t i = 0; i < all.size(); ++i) lanes[i % lanes.size()] += all[i];
}

void Reducer::gather_masters() {
  if (!state_->sharded) return;
  for (Parameter* p : state_->trainable) {
    p->grad = p->adam_m = p->adam_v = at::Tensor();
    const at::Tensor master = whole(*p, p->master);
    if (!is_root()) continue;
    p->master = master;
    p->owned_begin = 0;
  }
}

}  // namespace longlora
