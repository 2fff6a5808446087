// The backward pass in parts: over whole rows, and over windows with sums that travel, the bits of one call; at edges that are no tile
// edges, to rounding.
#include <gtest/gtest.h>

#include "attention_case.h"
#include "longlora/core/error.h"

namespace longlora::test {
namespace {

struct Parts {
  explicit Parts(const AttentionInputs& in, const AttentionOutputs& whole)
      : all{in.q, in.k, in.v, in.d_o, whole.lse, at::full(whole.lse.sizes(), NAN, whole.lse.options())}, o(whole.o) {}
  AttentionWindow queries(int64_t begin, int64_t end) const {
    return {all.q_BTHD.narrow(1, begin, end - begin),
            all.k_BTKD,
            all.v_BTKD,
            all.d_o_BTHD.narrow(1, begin, end - begin),
            all.lse_BHT.narrow(2, begin, end - begin),
            all.delta_BHT.narrow(2, begin, end - begin)};
  }
  static AttentionWindow keys(AttentionWindow w, int64_t begin, int64_t end) {
    w.k_BTKD = w.k_BTKD.narrow(1, begin, end - begin);
    w.v_BTKD = w.v_BTKD.narrow(1, begin, end - begin);
    return w;
  }
  AttentionWindow all;
  at::Tensor o;
};

AttentionLayout at_positions(AttentionLayout layout, int64_t q_begin, int64_t k_begin) {
  layout.q_begin = q_begin, layout.k_begin = k_begin;
  return layout;
}

/// Two ranks with the edge at `edge`: queries from there on first, their sums over the earlier keys start those of the queries before.
AttentionOutputs in_two_parts(const AttentionCase& c, const AttentionInputs& in, const AttentionOutputs& whole, int64_t edge) {
  Parts parts(in, whole);
  s2_attention_delta(c.layout(), parts.o, in.d_o, parts.all.delta_BHT);
  const at::Tensor sums = at::full({2, c.B, edge, c.K, c.D}, NAN, at::TensorOptions().dtype(at::kFloat));
  AttentionCarry carry{sums.select(0, 0), sums.select(0, 1)};
  s2_attention_key_sums(at_positions(c.layout(), edge, 0), Parts::keys(parts.queries(edge, c.T), 0, edge), {}, carry);
  AttentionOutputs r{whole.o, whole.lse, at::full(in.q.sizes(), NAN, in.q.options()), at::full(in.k.sizes(), NAN, in.k.options()),
                     at::full(in.k.sizes(), NAN, in.k.options())};
  at::Tensor d_k = r.d_k.narrow(1, 0, edge), d_v = r.d_v.narrow(1, 0, edge);
  s2_attention_backward_keys(at_positions(c.layout(), 0, 0), Parts::keys(parts.queries(0, edge), 0, edge), carry, d_k, d_v);
  d_k = r.d_k.narrow(1, edge, c.T - edge), d_v = r.d_v.narrow(1, edge, c.T - edge);
  s2_attention_backward_keys(at_positions(c.layout(), edge, edge), Parts::keys(parts.queries(edge, c.T), edge, c.T), {}, d_k, d_v);
  at::Tensor d_q = r.d_q.narrow(1, 0, edge);
  s2_attention_backward_queries(at_positions(c.layout(), 0, 0), Parts::keys(parts.queries(0, edge), 0, edge), d_q);
  d_q = r.d_q.narrow(1, edge, c.T - edge);
  s2_attention_backward_queries(at_positions(c.layout(), edge, 0), parts.queries(edge, c.T), d_q);
  return r;
}

TEST(AttentionParts, SumsThatTravelKeepEveryBitAtTileEdges) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    AttentionCase c{1, 1300, 3, 1, 64, 1024, 1};
    c.type = type;
    const AttentionInputs in(c);
    const AttentionOutputs whole = run_attention(c, in);
    for (const int64_t edge : {512, 1024}) {
      const AttentionOutputs parts = in_two_parts(c, in, whole, edge);
      EXPECT_TRUE(same_bits(parts.d_q, whole.d_q)) << edge;
      EXPECT_TRUE(same_bits(parts.d_k, whole.d_k)) << edge;
      EXPECT_TRUE(same_bits(parts.d_v, whole.d_v)) << edge;
    }
  }
}

TEST(AttentionParts, AnyEdgeIsRightToRounding) {
  for (const AttentionCase& c :
       {AttentionCase{2, 150, 4, 2, 8, 20, 2}, AttentionCase{1, 61, 9, 3, 80, 14, 4}, AttentionCase{1, 33, 1, 1, 1, 6, 0}}) {
    const AttentionInputs in(c);
    const AttentionOutputs whole = run_attention(c, in);
    const AttentionBounds bounds = attention_bounds(DType::f32);
    for (const int64_t edge : {int64_t{1}, int64_t{7}, int64_t{20}, c.T - 1}) {
      const AttentionOutputs parts = in_two_parts(c, in, whole, edge);
      EXPECT_LT(relative_error(doubles(parts.d_q), doubles(whole.d_q)), bounds.d_q.largest) << c << " edge " << edge;
      EXPECT_LT(relative_error(doubles(parts.d_k), doubles(whole.d_k)), bounds.d_k.largest) << c << " edge " << edge;
      EXPECT_LT(relative_error(doubles(parts.d_v), doubles(whole.d_v)), bounds.d_v.largest) << c << " edge " << edge;
    }
  }
}

TEST(AttentionParts, QueriesMayNotSeeKeysOutsideTheWindow) {
  const AttentionCase c{1, 40, 2, 2, 8, 20, 1};
  const AttentionInputs in(c);
  Parts parts(in, run_attention(c, in));
  at::Tensor d_q = at::empty({1, 10, 2, 8});
  EXPECT_THROW(s2_attention_backward_queries(at_positions(c.layout(), 30, 30), Parts::keys(parts.queries(30, 40), 30, 40), d_q), Error);
}

}  // namespace
}  // namespace longlora::test
