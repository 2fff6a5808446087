#include "model/layer.h"

#include "longlora/ops/accelerator.h"
#include "longlora/ops/rms_norm.h"
#include "longlora/ops/swiglu.h"

namespace longlora {
namespace {

at::Tensor rows_of(const at::Tensor& t_NX, RowTile tile) { return t_NX.narrow(0, tile.begin, tile.rows()); }

LinearCall call_of(const LayerContext& c, RowTile tile) {
  return {.scratch = c.work->linear, .dropout = &c.dropout, .first_row = c.first_row + tile.begin};
}

}  // namespace

Layer::Layer(const ModelConfig& config)
    : hidden_(config.hidden_size),
      num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      feed_forward_(config.intermediate_size),
      qkv_width_(config.q_width() + 2 * config.kv_width()),
      eps_(config.rms_norm_eps) {}

void Layer::forward(const LayerWeights& weights, const LayerContext& c, LayerActivations& a, at::Tensor& y_NC) const {
  const accelerator::Range range("layer forward");
  const Prepared w = prepare(weights, c);
  if (a.policy.streamed) return forward_blocks(w, c, a, y_NC);
  if (a.offloaded != nullptr) a.offloaded->keep(c.layer, c.first_row, a.x_NC);
  project(w, c, a.x_NC, a.qkv_NE);
  if (c.sequence != nullptr) fetch_halo(c, a);
  attend(c, a);
  if (a.offloaded != nullptr) a.offloaded->let_overwrite();
  finish(w, c, a, y_NC);
}

void Layer::backward(const LayerWeights& weights, const LayerContext& c, LayerActivations& a, at::Tensor& d_NC, WantInput want) const {
  const accelerator::Range range("layer backward");
  const Prepared w = prepare(weights, c);
  if (a.policy.streamed) return backward_blocks(w, c, a, d_NC, want);
  if (a.offloaded != nullptr) a.x_NC = a.offloaded->fetch(c.layer, c.first_row);
  if (a.policy.keep != KeepPolicy::save_all) project(w, c, a.x_NC, a.qkv_NE);  // same functions, same bits
  if (c.sequence != nullptr) fetch_halo(c, a);  // whatever the policy: ranks may keep differently, messages must not
  if (a.policy.keep == KeepPolicy::checkpoint) attend(c, a);
  mlp_backward(w, c, a, d_NC);        // d: of y -> of h; d_o
  attention_backward(c, a);           // d_q over q, d_k and d_v beside
  qkv_backward(w, c, a, d_NC, want);  // d: of h -> of x
  if (a.offloaded != nullptr) a.offloaded->drop();
}

// ---- forward pieces

Layer::Prepared Layer::prepare(const LayerWeights& weights, const LayerContext& c) const {
  LayerWorkspace& work = *c.work;
  return {longlora::prepare(qkv, weights.qkv_EC, c.merge, work.merged_qkv), longlora::prepare(o, weights.o_CE, c.merge, work.merged_o),
          longlora::prepare(gate_up, weights.gate_up_GC, c.merge, work.merged_gate_up),
          longlora::prepare(down, weights.down_CF, c.merge, work.merged_down)};
}

void Layer::project_qkv(const Prepared& w, const LayerContext& c, RowTile tile, const at::Tensor& x_RC, at::Tensor& qkv_RE) const {
  at::Tensor n_RC = tile_buffer(c.work->norm, c, tile, hidden_);
  rms_norm_forward(x_RC, norm1.weight_C, eps_, n_RC);
  linear_forward(w.qkv, call_of(c, tile), n_RC, qkv_RE);
  at::Tensor rotated_RHD = qkv_RE.view({tile.rows(), -1, head_dim_}).narrow(1, 0, num_heads_ + num_kv_heads_);
  rope_forward(*c.rope, *c.positions, c.first_row + tile.begin, rotated_RHD);
}

void Layer::project(const Prepared& w, const LayerContext& c, const at::Tensor& x_NC, at::Tensor qkv_NE) const {
  for (const RowTile tile : *c.tiles) {
    at::Tensor qkv_RE = rows_of(qkv_NE, tile);
    project_qkv(w, c, tile, rows_of(x_NC, tile), qkv_RE);
  }
}

void Layer::attend(const LayerContext& c, const LayerActivations& a) const {
  if (c.sequence != nullptr) return attend_part(c, a);
  at::Tensor o_BTHD = heads(a.o_NQ, c.rows, c.tokens, 0, num_heads_), lse_BHT = a.lse_BHT;
  s2_attention_forward(c.layout, query(a.qkv_NE, c.rows, c.tokens), key(a.qkv_NE, c.rows, c.tokens), value(a.qkv_NE, c.rows, c.tokens),
                       o_BTHD, lse_BHT);
}

void Layer::finish(const Prepared& w, const LayerContext& c, const LayerActivations& a, at::Tensor& y_NC) const {
  for (const RowTile tile : *c.tiles) {
    at::Tensor y_RC = rows_of(y_NC, tile);
    at::Tensor h_RC = a.h_NC.defined() ? rows_of(a.h_NC, tile) : y_RC;
    at::Tensor gate_up_RG = a.gate_up_NG.defined() ? rows_of(a.gate_up_NG, tile) : gate_up_buffer(c, tile);
    add_attention(w, c, tile, rows_of(a.x_NC, tile), rows_of(a.o_NQ, tile), h_RC);
    expand(w, c, tile, h_RC, gate_up_RG);
    contract(w, c, tile, h_RC, gate_up_RG, y_RC);
  }
}

void Layer::add_attention(const Prepared& w, const LayerContext& c, RowTile tile, const at::Tensor& x_RC, const at::Tensor& o_RQ,
                          at::Tensor& h_RC) const {
  if (h_RC.data_ptr() != x_RC.data_ptr()) h_RC.copy_(x_RC);
  linear_forward(w.o, call_of(c, tile), o_RQ, h_RC, Accumulate::yes);
}

void Layer::expand(const Prepared& w, const LayerContext& c, RowTile tile, const at::Tensor& h_RC, at::Tensor& gate_up_RG) const {
  at::Tensor n_RC = tile_buffer(c.work->norm, c, tile, hidden_);
  rms_norm_forward(h_RC, norm2.weight_C, eps_, n_RC);
  linear_forward(w.gate_up, call_of(c, tile), n_RC, gate_up_RG);
}

void Layer::contract(const Prepared& w, const LayerContext& c, RowTile tile, const at::Tensor& h_RC, const at::Tensor& gate_up_RG,
                     at::Tensor& y_RC) const {
  at::Tensor m_RF = tile_buffer(c.work->mlp, c, tile, feed_forward_);
  swiglu_forward(gate_up_RG, m_RF);
  if (y_RC.data_ptr() != h_RC.data_ptr()) y_RC.copy_(h_RC);
  linear_forward(w.down, call_of(c, tile), m_RF, y_RC, Accumulate::yes);
}

// ---- backward pieces

void Layer::mlp_backward(const Prepared& w, const LayerContext& c, const LayerActivations& a, at::Tensor& d_NC) const {
  for (auto tile = c.tiles->rbegin(); tile != c.tiles->rend(); ++tile) {
    at::Tensor d_RC = rows_of(d_NC, *tile);
    mlp_backward(w, c, *tile, a, d_RC);
  }
}

void Layer::mlp_backward(const Prepared& w, const LayerContext& c, RowTile tile, const LayerActivations& a, at::Tensor& d_RC) const {
  const LinearCall call = call_of(c, tile);
  const at::Tensor o_RQ = rows_of(a.o_NQ, tile);
  at::Tensor h_RC, gate_up_RG, m_RF, n_RC = tile_buffer(c.work->norm, c, tile, hidden_);
  if (a.policy.keep == KeepPolicy::save_all) {
    h_RC = rows_of(a.h_NC, tile);
    gate_up_RG = rows_of(a.gate_up_NG, tile);
    if (gate_up.backward_needs_input()) rms_norm_forward(h_RC, norm2.weight_C, eps_, n_RC);
  } else {
    h_RC = tile_buffer(c.work->h, c, tile, hidden_);
    gate_up_RG = gate_up_buffer(c, tile);
    add_attention(w, c, tile, rows_of(a.x_NC, tile), o_RQ, h_RC);
    expand(w, c, tile, h_RC, gate_up_RG);  // norm2(h) is in n now
  }
  if (down.backward_needs_input()) swiglu_forward(gate_up_RG, m_RF = tile_buffer(c.work->mlp_product, c, tile, feed_forward_));
  at::Tensor d_m_RF = tile_buffer(c.work->mlp, c, tile, feed_forward_);
  linear_backward(w.down, call, m_RF, d_RC, d_m_RF);
  swiglu_backward(gate_up_RG, d_m_RF);  // d_gate, d_up over gate, up
  at::Tensor d_n_RC = tile_buffer(c.work->d_norm, c, tile, hidden_), d_norm2_C = norm2.d_weight_C;
  linear_backward(w.gate_up, call, n_RC, gate_up_RG, d_n_RC);
  rms_norm_backward(h_RC, norm2.weight_C, eps_, d_n_RC, d_RC, d_norm2_C);

  at::Tensor d_o_RQ = rows_of(a.d_o_NQ, tile);
  linear_backward(w.o, call, o_RQ, d_RC, d_o_RQ);
}

void Layer::attention_backward(const LayerContext& c, LayerActivations& a) const {
  if (c.sequence != nullptr) return part_backward(c, a);
  const at::Tensor q_BTHD = query(a.qkv_NE, c.rows, c.tokens);
  at::Tensor d_q_BTHD = q_BTHD;  // d_q over q: attention finishes with q first
  at::Tensor d_k_BTKD = heads(a.d_kv_NX, c.rows, c.tokens, 0, num_kv_heads_),
             d_v_BTKD = heads(a.d_kv_NX, c.rows, c.tokens, num_kv_heads_, num_kv_heads_);
  at::Tensor delta = a.delta_BHT.view({attention_workspace_elements(c.rows, c.tokens, num_heads_)});
  s2_attention_backward(c.layout, q_BTHD, key(a.qkv_NE, c.rows, c.tokens), value(a.qkv_NE, c.rows, c.tokens),
                        heads(a.o_NQ, c.rows, c.tokens, 0, num_heads_), a.lse_BHT, heads(a.d_o_NQ, c.rows, c.tokens, 0, num_heads_),
                        d_q_BTHD, d_k_BTKD, d_v_BTKD, delta);
}

void Layer::qkv_backward(const Prepared& w, const LayerContext& c, const LayerActivations& a, at::Tensor& d_NC, WantInput want) const {
  for (auto tile = c.tiles->rbegin(); tile != c.tiles->rend(); ++tile) {
    at::Tensor d_RC = rows_of(d_NC, *tile);
    qkv_backward(w, c, *tile, a, d_RC, want);
  }
}

void Layer::qkv_backward(const Prepared& w, const LayerContext& c, RowTile tile, const LayerActivations& a, at::Tensor& d_RC,
                         WantInput want) const {
  at::Tensor d_qkv_RE = rows_of(a.qkv_NE, tile);
  const at::Tensor all_RHD = d_qkv_RE.view({tile.rows(), -1, head_dim_});
  const at::Tensor d_kv_RXD = rows_of(a.d_kv_NX, tile).view({tile.rows(), -1, head_dim_});
  at::Tensor d_q_RHD = all_RHD.narrow(1, 0, num_heads_), d_k_RKD = all_RHD.narrow(1, num_heads_, num_kv_heads_);
  rope_backward(*c.rope, *c.positions, c.first_row + tile.begin, d_q_RHD, d_q_RHD);
  rope_backward(*c.rope, *c.positions, c.first_row + tile.begin, d_kv_RXD.narrow(1, 0, num_kv_heads_), d_k_RKD);
  all_RHD.narrow(1, num_heads_ + num_kv_heads_, num_kv_heads_).copy_(d_kv_RXD.narrow(1, num_kv_heads_, num_kv_heads_));

  const at::Tensor x_RC = rows_of(a.x_NC, tile);
  at::Tensor n_RC = tile_buffer(c.work->norm, c, tile, hidden_), d_norm1_C = norm1.d_weight_C, d_n_RC;
  if (qkv.backward_needs_input()) rms_norm_forward(x_RC, norm1.weight_C, eps_, n_RC);
  const bool norm_backward = want == WantInput::yes || d_norm1_C.defined();
  if (norm_backward) d_n_RC = tile_buffer(c.work->d_norm, c, tile, hidden_);
  linear_backward(w.qkv, call_of(c, tile), n_RC, d_qkv_RE, d_n_RC);
  if (norm_backward) rms_norm_backward(x_RC, norm1.weight_C, eps_, d_n_RC, d_RC, d_norm1_C);
}

}  // namespace longlora
