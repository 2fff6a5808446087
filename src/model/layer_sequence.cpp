// Attention of one rank's part of rows that several ranks share (docs/distributed.md, "One sequence on several GPUs").
//
// Only queries of the part's first half-group look beyond its edge, and only in heads whose segments start one half-group earlier. So
// they are calls of their own, on a window of keys that holds the neighbour's last half-group and the part's first; all other calls work
// on the packed q, k and v as they lie. In the window, heads without a halo of their own lie beside zeros that they do not see.
#include <algorithm>

#include "longlora/plan/halo.h"
#include "model/layer.h"

namespace longlora {
namespace {

/// KV heads of [.., K, D].
at::Tensor heads_in(const at::Tensor& x, const HeadRange& heads) { return x.narrow(x.dim() - 2, heads.begin, heads.end - heads.begin); }

AttentionWindow queries_of(AttentionWindow w, int64_t first, int64_t count) {
  w.q_BTHD = w.q_BTHD.narrow(1, first, count);
  w.d_o_BTHD = w.d_o_BTHD.narrow(1, first, count);
  w.lse_BHT = w.lse_BHT.narrow(2, first, count);
  w.delta_BHT = w.delta_BHT.narrow(2, first, count);
  return w;
}
AttentionWindow keys_of(AttentionWindow w, int64_t first, int64_t count) {
  w.k_BTKD = w.k_BTKD.narrow(1, first, count);
  w.v_BTKD = w.v_BTKD.narrow(1, first, count);
  return w;
}

/// `layout` with windows moved from the begin of the part.
AttentionLayout moved(AttentionLayout layout, int64_t q_by, int64_t k_by) {
  layout.q_begin += q_by;
  layout.k_begin += k_by;
  return layout;
}

/// sums[0] or start[0] is dK, [1] dV.
AttentionCarry carry_of(const at::Tensor& both) { return {both.select(0, 0), both.select(0, 1)}; }

}  // namespace

/// What crosses the edges of the part in this layer.
struct Layer::Edges {
  HeadRange in, out;  // KV heads whose last half-group is read here from the left neighbour, and by the right one from here
  int64_t half;       // tokens of a half-group
  int64_t first;      // of them in the part's first one if some head reads a halo, else 0
};

Layer::Edges Layer::edges_of(const LayerContext& c) const {
  const SequenceContext& s = *c.sequence;
  const HeadRange in = halo_kv_heads(s.part.halo, num_heads_, num_kv_heads_, c.layout.num_plain);
  return {in, halo_kv_heads(s.part.next, num_heads_, num_kv_heads_, c.layout.num_plain), s.half_group,
          in.empty() ? 0 : std::min(s.half_group, c.tokens)};
}

/// [2, B, half, heads, D]; undefined when no head has anything to say.
at::Tensor Layer::message(Buffer& buffer, const LayerContext& c, const HeadRange& heads, const at::TensorOptions& options) const {
  if (heads.empty()) return {};
  return buffer.view({2, c.rows, c.sequence->half_group, heads.end - heads.begin, head_dim_}, options);
}

/// The last half-group's K and V go to the right; the left neighbour's and the own first ones lie side by side afterwards.
void Layer::fetch_halo(const LayerContext& c, const LayerActivations& a) const {
  const Edges e = edges_of(c);
  const at::Tensor k_BTKD = key(a.qkv_NE, c.rows, c.tokens), v_BTKD = value(a.qkv_NE, c.rows, c.tokens);
  at::Tensor out = message(c.work->halo_out, c, e.out, c.tensors), in = message(c.work->halo_in, c, e.in, c.tensors);
  if (out.defined()) {
    out.select(0, 0).copy_(heads_in(k_BTKD.narrow(1, c.tokens - e.half, e.half), e.out));
    out.select(0, 1).copy_(heads_in(v_BTKD.narrow(1, c.tokens - e.half, e.half), e.out));
  }
  pass_on(*c.sequence, Neighbour::right, out, in);
  if (!in.defined()) return;
  const at::Tensor window = c.work->halo.view({2, c.rows, e.half + e.first, num_kv_heads_, head_dim_}, c.tensors);
  const at::Tensor halo = window.narrow(2, 0, e.half);
  if (in.size(3) < num_kv_heads_) halo.zero_();
  heads_in(halo, e.in).copy_(in);
  window.select(0, 0).narrow(1, e.half, e.first).copy_(k_BTKD.narrow(1, 0, e.first));
  window.select(0, 1).narrow(1, e.half, e.first).copy_(v_BTKD.narrow(1, 0, e.first));
}

void Layer::attend_part(const LayerContext& c, const LayerActivations& a) const {
  const Edges e = edges_of(c);
  const at::Tensor q_BTHD = query(a.qkv_NE, c.rows, c.tokens), o_BTHD = heads(a.o_NQ, c.rows, c.tokens, 0, num_heads_);
  const auto attend_queries = [&](const AttentionLayout& layout, int64_t first, int64_t count, const at::Tensor& k, const at::Tensor& v) {
    at::Tensor o = o_BTHD.narrow(1, first, count), lse = a.lse_BHT.narrow(2, first, count);
    s2_attention_forward(layout, q_BTHD.narrow(1, first, count), k, v, o, lse);
  };
  if (e.first < c.tokens)
    attend_queries(moved(c.layout, e.first, 0), e.first, c.tokens - e.first, key(a.qkv_NE, c.rows, c.tokens),
                   value(a.qkv_NE, c.rows, c.tokens));
  if (e.first == 0) return;
  const at::Tensor window = c.work->halo.view({2, c.rows, e.half + e.first, num_kv_heads_, head_dim_}, c.tensors);
  attend_queries(moved(c.layout, 0, -e.half), 0, e.first, window.select(0, 0), window.select(0, 1));
}

/// Queries of the first half-group with every key they see.
AttentionWindow Layer::first_window(const LayerContext& c, const AttentionWindow& own, const Edges& e) const {
  const at::Tensor window = c.work->halo.view({2, c.rows, e.half + e.first, num_kv_heads_, head_dim_}, c.tensors);
  AttentionWindow first = queries_of(own, 0, e.first);
  first.k_BTKD = window.select(0, 0);
  first.v_BTKD = window.select(0, 1);
  return first;
}

/// Sums of the halo's keys over this part's queries go back to the left; what the right neighbour's queries add to the last half-group
/// comes from the right: sums over later queries, with which the own ones start.
AttentionCarry Layer::trade_halo_sums(const LayerContext& c, const AttentionWindow& first, const Edges& e) const {
  const at::TensorOptions fp32 = c.tensors.dtype(at::kFloat);
  at::Tensor out = message(c.work->halo_out, c, e.in, fp32), in = message(c.work->halo_in, c, e.out, fp32);
  const at::Tensor sums = c.work->halo_sums.view({2, c.rows, e.half, num_kv_heads_, head_dim_}, fp32);
  if (out.defined()) {
    AttentionCarry of_halo = carry_of(sums);
    s2_attention_key_sums(moved(c.layout, 0, -e.half), keys_of(first, 0, e.half), {}, of_halo);
    out.copy_(heads_in(sums, e.in));
  }
  pass_on(*c.sequence, Neighbour::left, out, in);
  if (!in.defined()) return {};
  if (in.size(3) < num_kv_heads_) sums.zero_();
  heads_in(sums, e.out).copy_(in);
  return carry_of(sums);
}

void Layer::part_backward(const LayerContext& c, LayerActivations& a) const {
  const Edges e = edges_of(c);
  const int64_t last = e.out.empty() ? 0 : e.half, before = c.tokens - last;
  AttentionWindow own{query(a.qkv_NE, c.rows, c.tokens),
                      key(a.qkv_NE, c.rows, c.tokens),
                      value(a.qkv_NE, c.rows, c.tokens),
                      heads(a.d_o_NQ, c.rows, c.tokens, 0, num_heads_),
                      a.lse_BHT,
                      a.delta_BHT};
  s2_attention_delta(c.layout, heads(a.o_NQ, c.rows, c.tokens, 0, num_heads_), own.d_o_BTHD, own.delta_BHT);
  const AttentionWindow first = e.first > 0 ? first_window(c, own, e) : AttentionWindow{};
  const AttentionCarry start = trade_halo_sums(c, first, e);
  const auto differentiate_keys = [&](int64_t begin, int64_t count, const AttentionCarry& sums) {
    at::Tensor d_k_BTKD = heads(a.d_kv_NX, c.rows, c.tokens, 0, num_kv_heads_).narrow(1, begin, count);
    at::Tensor d_v_BTKD = heads(a.d_kv_NX, c.rows, c.tokens, num_kv_heads_, num_kv_heads_).narrow(1, begin, count);
    s2_attention_backward_keys(moved(c.layout, 0, begin), keys_of(own, begin, count), sums, d_k_BTKD, d_v_BTKD);
  };
  if (before > 0) differentiate_keys(0, before, {});
  if (last > 0) differentiate_keys(before, last, start);
  const auto differentiate_queries = [&](const AttentionLayout& layout, const AttentionWindow& window) {
    at::Tensor d_q_BTHD = window.q_BTHD;  // d_q over q: the keys have finished with it
    s2_attention_backward_queries(layout, window, d_q_BTHD);
  };
  if (e.first < c.tokens) differentiate_queries(moved(c.layout, e.first, 0), queries_of(own, e.first, c.tokens - e.first));
  if (e.first > 0) differentiate_queries(moved(c.layout, 0, -e.half), first);
}

}  // namespace longlora
