#pragma once
// One decoder layer: forward, and its adjoint line by line in reverse.
//
// Shape legend: B rows, T tokens, N = B*T rows of a product, C hidden, H/K query/key-value heads, D head size, E = (H + 2K) D,
// F feed-forward, G = 2F (gate and up side by side).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/model/llama.h"
#include "longlora/ops/attention.h"
#include "longlora/ops/buffer.h"
#include "longlora/ops/host_list.h"
#include "longlora/ops/linear.h"
#include "longlora/ops/rope.h"
#include "longlora/plan/halo.h"
#include "model/layer_store.h"
#include "model/row_tiles.h"
#include "model/sequence_context.h"

namespace longlora {

/// Buffers that layers share: nothing in them outlives a layer.
struct LayerWorkspace {
  Buffer norm, d_norm, mlp, mlp_product;  // one row tile
  Buffer qkv, o, lse, h, gate_up;         // what a policy did not keep; h and gate_up are one row tile
  Buffer d_o, d_kv, delta;                // all rows
  Buffer merged_qkv, merged_o, merged_gate_up, merged_down;
  Buffer halo, halo_sums, halo_out, halo_in;  // of one half-group, with a sequence group only
  LinearScratch linear;
};

/// What one layer keeps between forward and backward.
struct LayerBuffers {
  Buffer x, qkv, o, lse, h, gate_up;
};

/// Views for one pass over one layer: kept buffers where the policy keeps them, workspace elsewhere.
struct LayerActivations {
  KeepPolicy policy = KeepPolicy::checkpoint;
  at::Tensor x_NC;  // input; every policy keeps it
  at::Tensor qkv_NE, o_NQ, lse_BHT;
  at::Tensor h_NC, gate_up_NG;  // h: after the attention branch; undefined unless kept: made per row tile
};

/// What is the same for all layers of a pass, and the layer's number.
struct LayerContext {
  int64_t rows = 0, tokens = 0;  // B, T
  at::TensorOptions tensors;     // of activations: compute dtype, device
  const std::vector<RowTile>* tiles = nullptr;
  const RopeTable* rope = nullptr;
  const IntList* positions = nullptr;
  AttentionLayout layout;  // num_plain is this layer's
  Merge merge = Merge::no;
  LoraDropout dropout;  // layer is this layer's
  LayerWorkspace* work = nullptr;
  const SequenceContext* sequence = nullptr;  // null: whole rows
};

class Layer {
 public:
  struct Norm {
    at::Tensor weight_C, d_weight_C;
  };  // compute dtype; fp32, undefined when frozen
  Norm norm1, norm2;
  Linear qkv, o, gate_up, down;

  Layer(const ModelConfig&);

  /// y = layer(x); `a` from `open_forward`. y may be a.x when no backward follows.
  void forward(const LayerWeights&, const LayerContext&, LayerActivations& a, at::Tensor& y_NC) const;
  /// d holds d_y and becomes d_x (contents undefined when WantInput::no). Adds parameter gradients.
  enum class WantInput { no, yes };
  void backward(const LayerWeights&, const LayerContext&, LayerActivations& a, at::Tensor& d_NC, WantInput) const;

  /// Views for `forward`: in `kept` what the policy keeps, in the workspace the rest.
  LayerActivations open_forward(const LayerContext&, KeepPolicy, LayerBuffers& kept, const at::Tensor& x_NC) const;
  LayerActivations open_backward(const LayerContext&, KeepPolicy, LayerBuffers& kept) const;

  // Pieces that the decoder uses with its own attention. One row tile each.
  struct Prepared {
    PreparedLinear qkv, o, gate_up, down;
  };
  Prepared prepare(const LayerWeights&, const LayerContext&) const;
  /// qkv = RoPE(norm1(x) Wqkv')
  void project_qkv(const Prepared&, const LayerContext&, RowTile, const at::Tensor& x_RC, at::Tensor& qkv_RE) const;
  /// h = x + o Wo'; h may be x
  void add_attention(const Prepared&, const LayerContext&, RowTile, const at::Tensor& x_RC, const at::Tensor& o_RQ, at::Tensor& h_RC) const;
  /// gate_up = norm2(h) Wgu'; leaves norm2(h) in the workspace
  void expand(const Prepared&, const LayerContext&, RowTile, const at::Tensor& h_RC, at::Tensor& gate_up_RG) const;
  /// y = h + (silu(gate) * up) Wd'; y may be h
  void contract(const Prepared&, const LayerContext&, RowTile, const at::Tensor& h_RC, const at::Tensor& gate_up_RG,
                at::Tensor& y_RC) const;

  at::Tensor gate_up_buffer(const LayerContext& c, RowTile tile) const { return tile_buffer(c.work->gate_up, c, tile, 2 * feed_forward_); }

  // [B, T, H or K, D] views of q | k | v
  at::Tensor query(const at::Tensor& qkv_NE, int64_t rows, int64_t tokens) const { return heads(qkv_NE, rows, tokens, 0, num_heads_); }
  at::Tensor key(const at::Tensor& qkv_NE, int64_t rows, int64_t tokens) const {
    return heads(qkv_NE, rows, tokens, num_heads_, num_kv_heads_);
  }
  at::Tensor value(const at::Tensor& qkv_NE, int64_t rows, int64_t tokens) const {
    return heads(qkv_NE, rows, tokens, num_heads_ + num_kv_heads_, num_kv_heads_);
  }

 private:
  at::Tensor heads(const at::Tensor& packed, int64_t rows, int64_t tokens, int64_t first, int64_t count) const;
  at::Tensor tile_buffer(Buffer&, const LayerContext&, RowTile, int64_t width) const;
  void attend(const LayerContext&, LayerActivations&) const;
  void restore_attention(const Prepared&, const LayerContext&, LayerActivations&) const;
  void mlp_backward(const Prepared&, const LayerContext&, RowTile, const LayerActivations&, at::Tensor& d_RC) const;
  void attention_backward(const LayerContext&, LayerActivations&) const;
  void qkv_backward(const Prepared&, const LayerContext&, RowTile, const LayerActivations&, at::Tensor& d_RC, WantInput) const;

  // One rank's part of the rows (layer_sequence.cpp)
  struct Edges;
  Edges edges_of(const LayerContext&) const;
  at::Tensor message(Buffer&, const LayerContext&, const HeadRange&, const at::TensorOptions&) const;
  AttentionWindow first_window(const LayerContext&, const AttentionWindow& own, const Edges&) const;
  AttentionCarry trade_halo_sums(const LayerContext&, const AttentionWindow& first, const Edges&) const;
  void fetch_halo(const LayerContext&, const LayerActivations&) const;
  void attend_part(const LayerContext&, LayerActivations&) const;
  void part_backward(const LayerContext&, LayerActivations&) const;

  int64_t hidden_, num_heads_, num_kv_heads_, head_dim_, feed_forward_, qkv_width_;
  double eps_;
};

}  // namespace longlora
