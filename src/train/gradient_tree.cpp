#include "longlora/train/gradient_tree.h"

#include "longlora/core/error.h"
#include "longlora/ops/memory_counter.h"

namespace longlora {

GradientTree::GradientTree(std::vector<Parameter*> trainable) : trainable_(std::move(trainable)) {}

void GradientTree::begin(int64_t first_shard) {
  newest_.reset();
  for (Subtree& left_over : open_) spare_.push_back(std::move(left_over.gradients));  // an abandoned step leaves some
  open_.clear();
  next_shard_ = first_shard;
}

void GradientTree::open() {
  if (newest_) store(*newest_);
  newest_.reset();
  const MemoryTag tag(Component::optimizer_and_gradient);
  for (Parameter* p : trainable_) {
    if (p->grad.defined())
      p->grad.zero_();
    else
      p->grad = at::zeros(p->master.sizes(), p->master.options());
  }
}

void GradientTree::absorb() {
  Subtree left = std::move(open_.back());
  open_.pop_back();
  for (size_t i = 0; i < trainable_.size(); ++i) trainable_[i]->grad.add_(left.gradients[i]);  // fp32 addition commutes
  spare_.push_back(std::move(left.gradients));
}

GradientTree::Buffers GradientTree::spare_buffers() {
  if (!spare_.empty()) {
    Buffers buffers = std::move(spare_.back());
    spare_.pop_back();
    return buffers;
  }
  const MemoryTag tag(Component::gradient_tree);
  Buffers buffers;
  for (Parameter* p : trainable_) buffers.push_back(at::empty_like(p->grad));
  return buffers;
}

void GradientTree::store(const Node& node) {
  Buffers buffers = spare_buffers();
  for (size_t i = 0; i < trainable_.size(); ++i) buffers[i].copy_(trainable_[i]->grad);
  open_.push_back({node.level, node.index, std::move(buffers)});
}

void GradientTree::close() {
  Node node{0, next_shard_++};
  const auto left_sibling_is_open = [&] {
    return !open_.empty() && node.index % 2 == 1 && open_.back().level == node.level && open_.back().index == node.index - 1;
  };
  while (left_sibling_is_open()) {
    absorb();
    node = {node.level + 1, node.index / 2};
  }
  newest_ = node;
}

void GradientTree::finish() {
  LONGLORA_INVARIANT(newest_);
  newest_.reset();
  // The right edge of the tree: a node without sibling passes up unchanged until it meets a finished left neighbour.
  while (!open_.empty()) absorb();
}

std::vector<GradientTree::Subtree> GradientTree::take_subtrees() {
  LONGLORA_INVARIANT(newest_);
  store(*newest_);
  newest_.reset();
  return std::exchange(open_, {});
}

}  // namespace longlora
