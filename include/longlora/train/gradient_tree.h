#pragma once
// The gradient of a step as a fixed binary tree over its canonical shards (docs/determinism.md): the same bits wherever a node is computed.
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "longlora/model/llama.h"
#include "longlora/model/parameter.h"

namespace longlora {

/// Binary counter of fp32 gradient buffers. node(0, i) is the gradient of shard i, computed into zeroed Parameter::grad;
/// node(l, i) = node(l-1, 2i) + node(l-1, 2i+1), or node(l-1, 2i) where the right sibling does not exist. A rank that computes shards
/// [first, first + n) finishes every node that lies inside them.
///
/// memory  Parameter::grad plus floor(log2(n)) copies of it, kept between steps: the newest node stays in Parameter::grad until
///         another shard needs the place
/// use     begin(first); for every shard in ascending order { open(); backward ...; close(); } finish(); or take_subtrees();
class GradientTree {
 public:
  using Buffers = std::vector<at::Tensor>;  // one per parameter
  struct Subtree {
    int level;
    int64_t index;
    Buffers gradients;
  };

  explicit GradientTree(std::vector<Parameter*> trainable);
  void begin(int64_t first_shard = 0);
  /// Makes room and zeroes every Parameter::grad: a shard never starts from its predecessor's gradient.
  void open();
  /// Takes the shard's gradient and adds finished siblings.
  void close();
  /// The root of the shards seen, all there are or one aligned subtree of them, in Parameter::grad.
  void finish();
  /// The maximal finished subtrees in ascending order; return their buffers afterwards.
  std::vector<Subtree> take_subtrees();
  void give_back(Buffers buffers) { spare_.push_back(std::move(buffers)); }
  Buffers spare_buffers();
  size_t num_buffers() const { return spare_.size() + open_.size(); }

 private:
  struct Node {
    int level;
    int64_t index;
  };
  void store(const Node&);
  void absorb();  // Parameter::grad = top subtree + Parameter::grad; pops

  std::vector<Parameter*> trainable_;
  int64_t next_shard_ = 0;
  std::optional<Node> newest_;  // its gradient is in Parameter::grad
  std::vector<Subtree> open_;   // finished subtrees before it, no two of them siblings
  std::vector<Buffers> spare_;
};

}  // namespace longlora
