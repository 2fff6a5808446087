#pragma once
// The gradient of a step as a fixed binary tree over its canonical shards (docs/determinism.md): the same bits wherever a node is computed.
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "longlora/model/llama.h"
#include "longlora/model/parameter.h"

namespace longlora {

/// Binary counter of fp32 gradient buffers. node(0, i) is the gradient of shard i, computed into zeroed Parameter::grad;
/// node(l, i) = node(l-1, 2i) + node(l-1, 2i+1), or node(l-1, 2i) where the right sibling does not exist. Losses use the same tree.
///
/// memory  Parameter::grad plus floor(log2(shards)) copies of it, kept between steps: the newest node stays in Parameter::grad until
///         another shard needs the place
/// use     begin(); for every shard { open(); backward ...; close(loss); } finish();
class GradientTree {
 public:
  explicit GradientTree(std::vector<Parameter*> trainable);
  void begin();
  /// Makes room and zeroes every Parameter::grad: a shard never starts from its predecessor's gradient.
  void open();
  /// Takes the shard's gradient and adds finished siblings.
  void close(const LossSum& loss);
  /// The root: gradients in Parameter::grad, loss sum returned.
  LossSum finish();
  size_t num_buffers() const { return spare_.size() + open_.size(); }

 private:
  using Buffers = std::vector<at::Tensor>;
  struct Node {
    int level;
    LossSum loss;
  };
  struct Subtree {
    Node node;
    Buffers gradients;
  };
  void store(const Node&);
  LossSum absorb(const LossSum& loss);  // Parameter::grad = top subtree + Parameter::grad; pops

  std::vector<Parameter*> trainable_;
  std::optional<Node> newest_;  // its gradient is in Parameter::grad
  std::vector<Subtree> open_;   // finished subtrees before it, sizes strictly decreasing
  std::vector<Buffers> spare_;
};

}  // namespace longlora
