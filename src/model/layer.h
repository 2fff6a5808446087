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
#include "longlora/ops/arena.h"
#include "longlora/ops/attention.h"
#include "longlora/ops/buffer.h"
#include "longlora/ops/host_list.h"
#include "longlora/ops/linear.h"
#include "longlora/ops/rope.h"
#include "longlora/plan/halo.h"
#include "longlora/plan/layer_memory.h"
#include "model/layer_store.h"
#include "model/offloaded_inputs.h"
#include "model/sequence_context.h"

namespace longlora {

/// Buffers of one pass over one layer, cut out of the top of the arena and given back with it: nothing in them outlives the layer.
struct LayerWorkspace {
  LayerWorkspace(Arena&, const WorkspaceBytes&);
  LayerWorkspace(const LayerWorkspace&) = delete;

  ArenaScope scope;
  Buffer norm, d_norm, mlp, mlp_product, h, gate_up;  // one row tile
  Buffer qkv, o, lse, d_o, d_kv, delta;               // all rows, or one block (qkv: two)
  Buffer carry;                                       // streamed: sums over the keys of the block before
  Buffer merged_qkv, merged_o, merged_gate_up, merged_down;
  Buffer halo, halo_sums, halo_out, halo_in;  // of one half-group, with a sequence group only
  LinearScratch linear;
};

/// What one layer keeps between forward and backward, in the arena; undefined: not kept.
struct KeptActivations {
  at::Tensor x_NC, qkv_NE, o_NQ, lse_BHT;
  at::Tensor h_NC, gate_up_NG;  // h: after the attention branch
};

/// Views for one pass over one layer, or over one block of it: kept tensors where the policy keeps them, workspace elsewhere. Whole rows of
/// a streamed layer exist where they are kept only.
struct LayerActivations : KeptActivations {
  LayerPolicy policy;
  at::Tensor d_o_NQ, d_kv_NX, delta_BHT;  // backward
  OffloadedInputs* offloaded = nullptr;   // x goes to the host before forward writes y over it, and comes back for backward
};

/// What is the same for all layers of a pass, and what is this layer's.
struct LayerContext {
  int64_t rows = 0, tokens = 0;  // B, T
  int64_t first_row = 0;         // of the micro-batch, at which these rows begin
  int64_t layer = 0;
  int64_t block = 0;                            // tokens of a block of a streamed layer
  at::TensorOptions tensors;                    // of activations: compute dtype, device
  const std::vector<RowTile>* tiles = nullptr;  // from first_row on
  const RopeTable* rope = nullptr;
  const IntList* positions = nullptr;  // of the micro-batch
  AttentionLayout layout;              // num_plain is this layer's
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

  /// y = layer(x); `a` from `open`. y may be a.x where no backward follows or x is offloaded.
  void forward(const LayerWeights&, const LayerContext&, LayerActivations& a, at::Tensor& y_NC) const;
  /// d holds d_y and becomes d_x (contents undefined when WantInput::no). Adds parameter gradients.
  enum class WantInput { no, yes };
  void backward(const LayerWeights&, const LayerContext&, LayerActivations& a, at::Tensor& d_NC, WantInput) const;

  /// Takes from the bottom of the arena what the policy keeps besides x.
  void keep(const LayerContext&, const LayerPolicy&, Arena&, KeptActivations&) const;
  /// `kept`, and workspace for everything else unless the layer is streamed.
  LayerActivations open(const LayerContext&, const LayerPolicy&, LayerPass, const KeptActivations& kept) const;

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
  void add_workspace(const LayerContext&, LayerPass, LayerActivations&) const;
  void project(const Prepared&, const LayerContext&, const at::Tensor& x_NC, at::Tensor qkv_NE) const;
  void attend(const LayerContext&, const LayerActivations&) const;
  void finish(const Prepared&, const LayerContext&, const LayerActivations&, at::Tensor& y_NC) const;
  void mlp_backward(const Prepared&, const LayerContext&, const LayerActivations&, at::Tensor& d_NC) const;
  void mlp_backward(const Prepared&, const LayerContext&, RowTile, const LayerActivations&, at::Tensor& d_RC) const;
  void attention_backward(const LayerContext&, LayerActivations&) const;
  void qkv_backward(const Prepared&, const LayerContext&, const LayerActivations&, at::Tensor& d_NC, WantInput) const;
  void qkv_backward(const Prepared&, const LayerContext&, RowTile, const LayerActivations&, at::Tensor& d_RC, WantInput) const;

  // Block by block (layer_stream.cpp)
  struct Block;
  LayerActivations part_of(const LayerActivations&, const Block&) const;
  at::Tensor window_of(const LayerActivations&, const LayerContext&, const Block&) const;
  void attend_block(const Block&, const LayerActivations& part, const at::Tensor& window_NE) const;
  void forward_blocks(const Prepared&, const LayerContext&, LayerActivations&, at::Tensor& y_NC) const;
  void restore_block(const Prepared&, const LayerContext&, const Block&, LayerActivations& part, const at::Tensor& window_NE,
                     const at::Tensor& x_before_NC) const;
  void block_attention_backward(const LayerContext&, const Block&, LayerActivations& part, const at::Tensor& window_NE) const;
  void backward_blocks(const Prepared&, const LayerContext&, LayerActivations&, at::Tensor& d_NC, WantInput) const;

  // One rank's part of the rows (layer_sequence.cpp)
  struct Edges;
  Edges edges_of(const LayerContext&) const;
  at::Tensor message(Buffer&, const LayerContext&, const HeadRange&, const at::TensorOptions&) const;
  AttentionWindow first_window(const LayerContext&, const AttentionWindow& own, const Edges&) const;
  AttentionCarry trade_halo_sums(const LayerContext&, const AttentionWindow& first, const Edges&) const;
  void fetch_halo(const LayerContext&, const LayerActivations&) const;
  void attend_part(const LayerContext&, const LayerActivations&) const;
  void part_backward(const LayerContext&, LayerActivations&) const;

  int64_t hidden_, num_heads_, num_kv_heads_, head_dim_, feed_forward_, qkv_width_;
  double eps_;
};

}  // namespace longlora
