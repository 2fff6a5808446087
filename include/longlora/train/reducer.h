#pragma once
// What the ranks of a run do together in a step: one gradient out of all shards, one norm, one decision; then the refreshed weights.
// The sums have one definition, a binary tree over the shards of the global batch, and no number of ranks changes a bit of them
// (docs/distributed.md, "One sum").
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "longlora/checkpoint/train_state.h"
#include "longlora/dist/communicator.h"
#include "longlora/optim/optimizer.h"
#include "longlora/train/gradient_tree.h"

namespace longlora {

class Reducer : public StateShards {
 public:
  /// `shards`: of the global batch, a multiple of ranks.size(). With `shard_state` and several ranks every Parameter's master, and with it
  /// what the optimizer allocates, becomes this rank's slice: construct it after weights are loaded and before AdamW.
  Reducer(dist::Communicator& ranks, std::vector<Parameter*> trainable, int64_t shards, bool shard_state);
  ~Reducer() override;

  dist::Communicator& ranks();
  int64_t first_shard() const;

  /// This rank's nodes of the tree and its shards' losses in; the decision of the step out, equal on all ranks. Afterwards Parameter::grad
  /// is the sum over all shards: where the rank owns state, everywhere when state is not sharded.
  ///
  /// cost  with 2^k ranks and a power of two of shards each: k exchanges of a half, a quarter, ... of the gradient; an embedding's rows
  ///       without gradient are not sent where that is cheaper. Otherwise whole subtrees are sent, and the root is broadcast.
  UpdateGate reduce(GradientTree&, const std::vector<LossSum>& losses, double clip_norm);
  /// After the optimizer or after loading: every rank has all weights. Nothing unless state is sharded.
  void refresh_weights();
  /// Parameter::grad whole on every rank (after `reduce`).
  void gather_gradients();

  /// An error on any rank ends the step on all before anything moves: rethrown where it happened, the same kind elsewhere.
  /// True: a rank ran out of memory and none failed otherwise.
  bool agree_on_failure(const std::exception_ptr& mine, int64_t step);
  /// Replicas must be equal: compares lanes of every trainable weight. A difference is ErrorKind::internal naming tensor and rank.
  void check_replicas();

  /// Whole fp32 masters on the host at the root, for export; the model cannot be trained afterwards.
  void gather_masters();

  bool is_root() const override;
  at::Tensor whole(const Parameter&, const at::Tensor& mine) override;
  void add(std::vector<StateLanes>&) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longlora
