#pragma once
// The backward pass of one block of keys with blocks of queries: the arithmetic; attention_backward.cpp decides the order.
#include <ATen/core/Tensor.h>

#include <optional>
#include <span>

#include "attention_tile.h"
#include "longlora/kernels/s2_attention.h"

namespace longlora::attention {

/// Tile sizes by head size alone, so that scratch stays below 1 MiB. `block` tokens of queries or keys are scheduled as one.
struct BackwardTiles {
  explicit BackwardTiles(int64_t head_size) : width(round_up(head_size, kPanel)), block(kernels::host_attention_block(head_size)) {
    rows = width <= 128 ? 128 : block / 2;
    keys = std::min<int64_t>(block, 128);
  }
  int64_t panels() const { return width / kPanel; }
  int64_t scratch_floats() const { return 5 * block * width + 3 * rows * width + 2 * rows * keys + 2 * rows + 2 * kPanel; }

  int64_t width, block, rows, keys;
};

/// fp32 [B, H, T], last stride 1.
struct Statistic {
  explicit Statistic(const at::Tensor& x_BHT) : data(x_BHT.data_ptr<float>()), row_stride(x_BHT.stride(0)), head_stride(x_BHT.stride(1)) {}
  float* data;
  int64_t row_stride, head_stride;
};

/// fp32 sums that a pass over keys starts from.
struct StartSums {
  View d_k, d_v;
};

/// What one call works on; a part of the pass leaves views that it neither reads nor writes equal to others.
struct BackwardCall {
  const Pattern& pattern;
  View q, k, v, o, d_o, d_q, d_k, d_v;
  const at::Tensor& lse;  // [B, H, positions of q], delta likewise
  Statistic delta;
  int64_t num_heads;
  BackwardTiles tiles;
  float scale, to_base2;
  float key_factor;                     // of d_k when it is stored: scale, or 1 for sums that another call goes on with
  std::optional<StartSums> start = {};  // none: 0

  float& delta_at(int64_t b, int64_t head, int64_t position) const {
    return delta.data[b * delta.row_stride + head * delta.head_stride + position - q.begin];
  }
};

/// d_o . o of one query of one head, fp32.
float dot(const View& x, const View& y, int64_t b, int64_t position, int64_t head);

/// Which accumulators a visit adds into: d_k and d_v, d_q, or all three.
enum class Products { all, keys, queries };

/// Scratch of a task: one block of keys with its gradients, one tile of query rows.
class BackwardPair {
 public:
  BackwardPair(const BackwardCall&, int64_t b, int64_t kv_head);

  /// Packs keys and values of block n.
  void load_keys(int64_t n);
  void clear_key_gradients();
  void load_key_gradients(int64_t n, const View& d_k, const View& d_v);
  void store_key_gradients(int64_t n, float factor_of_d_k) const;

  /// Adds the pairs of query rows [begin, begin + bounds.count) of one head with the loaded keys. `d_q` panels: tiles.rows rows.
  void add(int64_t head, int64_t begin, const RowBounds&, Products, float* d_q);

  bool meets(const RowBounds& bounds) const { return !bounds.empty() && bounds.first_key() < key_end_ && bounds.end_key() > key_begin_; }

  /// Accumulator of d_q rows in scratch; slot 0, or with Products::queries (where d_k and d_v are not held) one for every tile of a block.
  float* query_gradients(int64_t slot) { return slot == 0 ? d_q_ : d_k_ + slot * c_.tiles.rows * c_.tiles.width; }

 private:
  struct Block {
    int64_t row, rows, first_panel, end_panel;
  };  // of six rows; panels of keys that some row of it sees

  void load_queries(int64_t head, int64_t begin, int64_t end);
  std::span<const Block> find_blocks(const RowBounds&, int64_t key_offset);
  void products_of(std::span<const Block>, const float* a, const float* b_transposed, int64_t key_offset, float* out);
  void soften(std::span<const Block>, const RowBounds&, int64_t key_offset);
  void soften_row(const Block&, int64_t row, int64_t from, int64_t to);
  void add_key_gradients(std::span<const Block>, int64_t key_offset);
  void add_transposed(int64_t first_row, int64_t end_row, const float* weights, const float* rows, float* out);
  void add_query_gradients(std::span<const Block>, int64_t key_offset, float* d_q);

  const BackwardCall& c_;
  const int64_t b_, kv_;
  int64_t key_begin_ = 0, key_end_ = 0;
  float *k_transposed_, *v_transposed_, *k_, *d_k_, *d_v_, *q_, *d_o_, *d_q_, *p_, *d_s_, *lse2_, *delta_;
  Block blocks_[128];  // at most one a row of a tile
};

}  // namespace longlora::attention
