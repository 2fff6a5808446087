// A layer block by block of half a group (docs/memory.md section 6): what a whole row needs at once is needed of two blocks only.
//
// A query of block j sees keys of block j, and in one kind of heads (its halo) those of block j - 1: the others' segments begin with the
// block. Forward carries keys and values of one block; backward goes down the row and carries, of the block before, its projections and
// the sums over its keys that queries of this block have added. Nothing is computed twice that a whole row computes once, and every
// gradient is added in the same order.
#include <algorithm>

#include "model/layer.h"

namespace longlora {
namespace {

/// Plain segments begin at even blocks, shifted ones at odd blocks and at 0.
HaloHeads halo_of_block(int64_t index) {
  if (index == 0) return HaloHeads::none;
  return index % 2 == 1 ? HaloHeads::plain : HaloHeads::shifted;
}

at::Tensor part_rows(const at::Tensor& t_NX, int64_t first, int64_t count) { return t_NX.defined() ? t_NX.narrow(0, first, count) : t_NX; }

}  // namespace

/// One block of one row, with a context in which its tokens are all there is.
struct Layer::Block {
  Block(const LayerContext& c, int64_t row, int64_t number)
      : row(row), index(number), begin(number * c.block), first(row * c.tokens + begin), context(c) {
    const int64_t count = std::min(c.block, c.tokens - begin);
    is_last = begin + count == c.tokens;
    before = number > 0 ? c.block : 0;
    for (const RowTile& tile : *c.tiles)
      if (tile.begin >= first && tile.begin < first + count) tiles.push_back({tile.begin - first, tile.end - first});
    context.rows = 1;
    context.tokens = count;
    context.first_row += first;
    context.tiles = &tiles;
    context.layout.q_begin += begin;
    context.layout.k_begin += begin;
  }
  Block(const Block&) = delete;

  static int64_t count_of(const LayerContext& c) { return (c.tokens + c.block - 1) / c.block; }
  int64_t tokens() const { return context.tokens; }
  /// Queries are the block's, keys those of the window.
  AttentionLayout window_layout() const {
    AttentionLayout layout = context.layout;
    layout.k_begin -= before;
    return layout;
  }

  int64_t row, index, begin, first;  // first: row of the tensors at which it begins
  int64_t before;                    // tokens in front of it in its window of keys: a block, or 0 at the begin of a row
  bool is_last;
  std::vector<RowTile> tiles;
  LayerContext context;
};

/// What is kept, of the block alone.
LayerActivations Layer::part_of(const LayerActivations& a, const Block& b) const {
  LayerActivations part;
  part.policy = a.policy;
  part.x_NC = part_rows(a.x_NC, b.first, b.tokens());
  part.o_NQ = part_rows(a.o_NQ, b.first, b.tokens());
  part.h_NC = part_rows(a.h_NC, b.first, b.tokens());
  part.gate_up_NG = part_rows(a.gate_up_NG, b.first, b.tokens());
  if (a.lse_BHT.defined()) part.lse_BHT = a.lse_BHT.narrow(0, b.row, 1).narrow(2, b.begin, b.tokens());
  return part;
}

/// q, k, v of the block and, in front of it, of the block before: in place where they are kept, else in a buffer of two blocks.
at::Tensor Layer::window_of(const LayerActivations& a, const LayerContext& c, const Block& b) const {
  const int64_t count = b.before + b.tokens();
  if (a.qkv_NE.defined()) return a.qkv_NE.narrow(0, b.first - b.before, count);
  return c.work->qkv.view({2 * c.block, qkv_width_}, c.tensors).narrow(0, c.block - b.before, count);
}

void Layer::attend_block(const Block& b, const LayerActivations& part, const at::Tensor& window_NE) const {
  const int64_t keys = window_NE.size(0);
  at::Tensor o_BTHD = heads(part.o_NQ, 1, b.tokens(), 0, num_heads_), lse_BHT = part.lse_BHT;
  s2_attention_forward(b.window_layout(), query(part.qkv_NE, 1, b.tokens()), key(window_NE, 1, keys), value(window_NE, 1, keys), o_BTHD,
                       lse_BHT);
}

void Layer::forward_blocks(const Prepared& w, const LayerContext& c, LayerActivations& a, at::Tensor& y_NC) const {
  const int64_t query_width = num_heads_ * head_dim_;
  for (int64_t row = 0; row < c.rows; ++row)
    for (int64_t j = 0; j < Block::count_of(c); ++j) {
      const Block b(c, row, j);
      LayerActivations part = part_of(a, b);
      if (a.offloaded != nullptr) a.offloaded->keep(c.layer, b.context.first_row, part.x_NC);
      const at::Tensor window_NE = window_of(a, c, b);
      if (b.before > 0 && !a.qkv_NE.defined()) {  // keys and values of the last block move in front
        const at::Tensor both_NX = c.work->qkv.view({2 * c.block, qkv_width_}, c.tensors).narrow(1, query_width, qkv_width_ - query_width);
        both_NX.narrow(0, 0, c.block).copy_(both_NX.narrow(0, c.block, c.block));
      }
      part.qkv_NE = window_NE.narrow(0, b.before, b.tokens());
      add_workspace(b.context, LayerPass::forward, part);
      project(w, b.context, part.x_NC, part.qkv_NE);
      attend_block(b, part, window_NE);
      if (a.offloaded != nullptr) a.offloaded->let_overwrite();
      at::Tensor y = part_rows(y_NC, b.first, b.tokens());
      finish(w, b.context, part, y);
    }
}

/// What the policy did not keep: projections of the block (the last one's; later the one before has them) and of the one before; attention.
void Layer::restore_block(const Prepared& w, const LayerContext& c, const Block& b, LayerActivations& part, const at::Tensor& window_NE,
                          const at::Tensor& x_before_NC) const {
  if (part.policy.keep != KeepPolicy::save_all) {
    if (b.is_last)
      project(w, b.context, part.x_NC, part.qkv_NE);
    else
      part.qkv_NE.copy_(c.work->qkv.view({2 * c.block, qkv_width_}, c.tensors).narrow(0, 0, c.block));
    if (b.before > 0) {
      const Block before(c, b.row, b.index - 1);
      project(w, before.context, x_before_NC, window_NE.narrow(0, 0, b.before));
    }
  }
  if (part.policy.keep == KeepPolicy::checkpoint) attend_block(b, part, window_NE);
}

/// The block's dK and dV begin with the sums over later queries; its queries' share in those of the block before is carried on.
void Layer::block_attention_backward(const LayerContext& c, const Block& b, LayerActivations& part, const at::Tensor& window_NE) const {
  const int64_t tokens = b.tokens(), keys = window_NE.size(0), per_kv = num_heads_ / num_kv_heads_;
  const at::TensorOptions fp32 = c.tensors.dtype(at::kFloat);
  const AttentionWindow own{query(part.qkv_NE, 1, tokens),
                            key(part.qkv_NE, 1, tokens),
                            value(part.qkv_NE, 1, tokens),
                            heads(part.d_o_NQ, 1, tokens, 0, num_heads_),
                            part.lse_BHT,
                            part.delta_BHT};
  s2_attention_delta(b.context.layout, heads(part.o_NQ, 1, tokens, 0, num_heads_), own.d_o_BTHD, part.delta_BHT);

  const auto of_heads = [&](AttentionWindow x, const HeadRange& kv) {
    const int64_t count = kv.end - kv.begin;
    for (at::Tensor* t : {&x.k_BTKD, &x.v_BTKD}) *t = t->narrow(2, kv.begin, count);
    for (at::Tensor* t : {&x.q_BTHD, &x.d_o_BTHD}) *t = t->narrow(2, kv.begin * per_kv, count * per_kv);
    for (at::Tensor* t : {&x.lse_BHT, &x.delta_BHT}) *t = t->narrow(1, kv.begin * per_kv, count * per_kv);
    return x;
  };
  const auto layout_of = [&](AttentionLayout layout, const HeadRange& kv) {
    layout.num_plain = std::clamp(layout.num_plain - kv.begin * per_kv, int64_t{0}, (kv.end - kv.begin) * per_kv);
    return layout;
  };
  const auto carry_of = [&](const HeadRange& kv) -> AttentionCarry {
    const at::Tensor both = c.work->carry.view({2, 1, c.block, kv.end - kv.begin, head_dim_}, fp32);
    return {both.select(0, 0), both.select(0, 1)};
  };
  const auto differentiate_keys = [&](const HeadRange& kv, const AttentionCarry& start) {
    if (kv.empty()) return;
    at::Tensor d_k_BTKD = heads(part.d_kv_NX, 1, tokens, kv.begin, kv.end - kv.begin);
    at::Tensor d_v_BTKD = heads(part.d_kv_NX, 1, tokens, num_kv_heads_ + kv.begin, kv.end - kv.begin);
    s2_attention_backward_keys(layout_of(b.context.layout, kv), of_heads(own, kv), start, d_k_BTKD, d_v_BTKD);
  };
  const auto kv_of = [&](HaloHeads halo) { return halo_kv_heads(halo, num_heads_, num_kv_heads_, c.layout.num_plain); };
  const HeadRange next = kv_of(b.is_last ? HaloHeads::none : halo_of_block(b.index + 1));
  differentiate_keys({0, next.begin}, {});
  differentiate_keys(next, next.empty() ? AttentionCarry{} : carry_of(next));
  differentiate_keys({next.end, num_kv_heads_}, {});

  const HeadRange halo = kv_of(halo_of_block(b.index));
  AttentionWindow window = own;
  if (!halo.empty()) {
    AttentionCarry sums = carry_of(halo);
    window.k_BTKD = key(window_NE.narrow(0, 0, b.before), 1, b.before);
    window.v_BTKD = value(window_NE.narrow(0, 0, b.before), 1, b.before);
    s2_attention_key_sums(layout_of(b.window_layout(), halo), of_heads(window, halo), {}, sums);
  }
  window.k_BTKD = key(window_NE, 1, keys);
  window.v_BTKD = value(window_NE, 1, keys);
  at::Tensor d_q_BTHD = own.q_BTHD;  // d_q over q: the keys have finished with it
  s2_attention_backward_queries(b.window_layout(), window, d_q_BTHD);
}

void Layer::backward_blocks(const Prepared& w, const LayerContext& c, LayerActivations& a, at::Tensor& d_NC, WantInput want) const {
  const bool needs_before = a.policy.keep != KeepPolicy::save_all;
  const auto input = [&](const Block& b) {
    if (a.offloaded == nullptr) return part_rows(a.x_NC, b.first, b.tokens());
    return a.offloaded->fetch(c.layer, b.context.first_row);
  };
  for (int64_t row = c.rows - 1; row >= 0; --row) {
    at::Tensor x_NC;  // of the block; fetched by the block after it
    for (int64_t j = Block::count_of(c) - 1; j >= 0; --j) {
      const Block b(c, row, j);
      if (!x_NC.defined()) x_NC = input(b);
      at::Tensor x_before_NC = needs_before && j > 0 ? input(Block(c, row, j - 1)) : at::Tensor();
      LayerActivations part = part_of(a, b);
      part.x_NC = x_NC;
      const at::Tensor window_NE = window_of(a, c, b);
      part.qkv_NE = window_NE.narrow(0, b.before, b.tokens());
      add_workspace(b.context, LayerPass::backward, part);
      restore_block(w, c, b, part, window_NE, x_before_NC);
      at::Tensor d = part_rows(d_NC, b.first, b.tokens());
      mlp_backward(w, b.context, part, d);
      block_attention_backward(c, b, part, window_NE);
      qkv_backward(w, b.context, part, d, want);
      if (a.offloaded != nullptr) a.offloaded->drop();
      x_NC = x_before_NC;
    }
  }
}

}  // namespace longlora
