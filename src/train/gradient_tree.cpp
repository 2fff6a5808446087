#include "longlora/train/gradient_tree.h"

#include "longlora/core/error.h"

namespace longlora {

GradientTree::GradientTree(std::vector<Parameter*> trainable) : trainable_(std::move(trainable)) {}

void GradientTree::begin() {
  newest_.reset();
  for (Subtree& left_over : open_) spare_.push_back(std::move(left_over.gradients));  // an abandoned step leaves some
  open_.clear();
}

void GradientTree::open() {
  if (newest_) store(*newest_);
  newest_.reset();
  for (Parameter* p : trainable_) {
    if (p->grad.defined())
      p->grad.zero_();
    else
      p->grad = at::zeros(p->master.sizes(), p->master.options());
  }
}

LossSum GradientTree::absorb(const LossSum& right) {
  Subtree left = std::move(open_.back());
  open_.pop_back();
  for (size_t i = 0; i < trainable_.size(); ++i) trainable_[i]->grad.add_(left.gradients[i]);  // fp32 addition commutes
  spare_.push_back(std::move(left.gradients));
  return left.node.loss + right;
}

void GradientTree::store(const Node& node) {
  Buffers buffers;
  if (spare_.empty()) {
    for (Parameter* p : trainable_) buffers.push_back(at::empty_like(p->grad));
  } else {
    buffers = std::move(spare_.back());
    spare_.pop_back();
  }
  for (size_t i = 0; i < trainable_.size(); ++i) buffers[i].copy_(trainable_[i]->grad);
  open_.push_back({node, std::move(buffers)});
}

void GradientTree::close(const LossSum& loss) {
  Node node{0, loss};
  while (!open_.empty() && open_.back().node.level == node.level) node = {node.level + 1, absorb(node.loss)};
  newest_ = node;
}

LossSum GradientTree::finish() {
  LONGLORA_INVARIANT(newest_);
  // The right edge of the tree: a node without sibling passes up unchanged until it meets a finished left neighbour.
  LossSum sum = newest_->loss;
  newest_.reset();
  while (!open_.empty()) sum = absorb(sum);
  return sum;
}

}  // namespace longlora
