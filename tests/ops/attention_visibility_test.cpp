// Who sees whom: an unseen token changes no bit, padding and other documents neither; s2_wrap leaks exactly where it says.
#include <gtest/gtest.h>

#include "attention_case.h"

namespace longlora::test {
namespace {

/// Is [b, t, :, h, ...] of a [B, T, heads, D] tensor the same in both?
bool same_row(const at::Tensor& a, const at::Tensor& b, int64_t t, int64_t head) {
  return same_bits(a.narrow(1, t, 1).narrow(2, head, 1), b.narrow(1, t, 1).narrow(2, head, 1));
}

/// In bf16 a visible change may vanish in rounding; an invisible one must not exist.
/// Changes one token of k, v, then of q and d_o, and checks every output row against the mask of the definition.
void check_token(const AttentionCase& c, int64_t token) {
  const AttentionInputs in(c);
  const AttentionOutputs before = run_attention(c, in);
  const auto touch = [&](const at::Tensor& x) { x.narrow(1, token, 1).add_(0.5); };
  touch(in.k);
  touch(in.v);
  const AttentionOutputs keys = run_attention(c, in);
  touch(in.q);
  const AttentionOutputs both = run_attention(c, in);
  touch(in.d_o);
  const AttentionOutputs gradient = run_attention(c, in);
  for (int64_t h = 0; h < c.H; ++h) {
    const std::vector<char> allowed = oracle::mask(c.oracle_layout(), 0, h);
    for (int64_t t = 0; t < c.T; ++t) {
      const bool sees = allowed[t * c.T + token] != 0, is_same = same_row(before.o, keys.o, t, h);
      ASSERT_TRUE(sees || is_same) << c << " token " << token << " leaks to query " << t << " head " << h;
      ASSERT_TRUE(!sees || !is_same || c.type == at::kBFloat16) << c << " token " << token << " misses query " << t << " head " << h;
      ASSERT_TRUE(t == token || same_row(keys.o, both.o, t, h)) << c << " q of token " << token << " changes query " << t;
    }
  }
  for (int64_t j = 0; j < c.K; ++j) {
    for (int64_t u = 0; u < c.T; ++u) {
      bool seen = false;
      for (int64_t h = j * c.H / c.K; h < (j + 1) * c.H / c.K; ++h) {
        seen |= oracle::mask(c.oracle_layout(), 0, h)[token * c.T + u] != 0;
      }
      const bool is_same = same_row(both.d_k, gradient.d_k, u, j) && same_row(both.d_v, gradient.d_v, u, j);
      ASSERT_TRUE(seen || is_same) << c << " d_o of " << token << " reaches " << u;
      const bool may_vanish = c.type == at::kBFloat16;
      ASSERT_TRUE(!seen || may_vanish || !same_row(both.d_v, gradient.d_v, u, j)) << c << " d_o of " << token << " misses " << u;
    }
  }
}

TEST(AttentionVisibility, UnseenTokenChangesNoBit) {
  std::mt19937 generator(7);
  for (int i = 0; i < 14; ++i) {
    AttentionCase c{1, 20 + static_cast<int64_t>(generator() % 90), 3, 1, 8, 2 * (1 + static_cast<int64_t>(generator() % 30)), 1};
    c.type = i % 2 == 0 ? at::kFloat : at::kBFloat16;
    if (i % 3 == 0) c.documents = {{0, c.T / 3, c.T / 2 + 1}};
    for (const int64_t token : {int64_t{0}, c.T / 2, c.T - 1}) check_token(c, token);
  }
}

TEST(AttentionVisibility, OfficialOddGroupNeighboursAreExact) {  // where the official roll back is off by one
  for (const int64_t group : {2, 6, 250}) {
    for (const int64_t T : {group, 2 * group + 1, 255L}) check_token({1, T, 2, 2, 8, group, 1}, T / 2);
  }
}

TEST(AttentionVisibility, WrapLeaksWhereTheRollSays) {
  for (const int64_t token : {0, 20, 60, 79}) check_token({1, 80, 2, 2, 8, 40, 1, AttentionKind::s2_wrap}, token);
  check_token({1, 32, 2, 1, 8, 32, 1, AttentionKind::s2_wrap}, 31);
}

/// Boolean powers of the union pattern: how many layers until the last token reaches all of the past?
int layers_to_reach(const oracle::Layout& l, bool* sees_future, bool labels_from_predecessor) {
  const int64_t T = l.tokens;
  const std::vector<char> a = oracle::mask(l, 0, 0), b = oracle::mask(l, 0, l.num_plain);
  std::vector<char> reach(T * T);
  for (int64_t t = 0; t < T; ++t) reach[t * T + t] = 1;
  for (int layer = 1; layer <= 64; ++layer) {
    std::vector<char> next(T * T);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t m = 0; m < T; ++m) {
        if (!a[t * T + m] && !b[t * T + m]) continue;
        for (int64_t u = 0; u < T; ++u) next[t * T + u] |= reach[m * T + u];
      }
    }
    reach = next;
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t u = t + 1; u < T; ++u) *sees_future |= reach[t * T + u] != 0;
    }
    bool done = true;
    for (int64_t t = 0; t < T; ++t) done &= labels_from_predecessor ? t == 0 || reach[(t - 1) * T + t] : reach[(T - 1) * T + t] != 0;
    if (done) return layer;
  }
  return -1;
}

TEST(AttentionVisibility, InformationFlowsThroughLayersToTheWholePastOnly) {
  for (const auto [n, layers] : {std::pair{4, 7}, {8, 15}}) {
    bool sees_future = false;
    EXPECT_EQ(layers_to_reach({"s2", 8 * n, 8, 1}, &sees_future, false), layers);
    EXPECT_FALSE(sees_future);
  }
}

TEST(AttentionVisibility, WrapReachesTheFuture) {
  for (const auto [n, layers] : {std::pair{4, 8}, {8, 16}}) {
    bool sees_future = false;
    EXPECT_EQ(layers_to_reach({"s2_wrap", 8 * n, 8, 1}, &sees_future, true), layers);
    EXPECT_TRUE(sees_future);
  }
}

TEST(AttentionVisibility, PaddingOnTheRightChangesNoBit) {  // padding in the second and the last group, d_o = 0 there
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t length : {8, 100, 130, 250}) {
      AttentionCase c{1, 250, 3, 1, 64, 128, 1};
      c.type = type;
      const AttentionInputs in(c);
      in.d_o.narrow(1, length, c.T - length).zero_();
      const AttentionOutputs padded = run_attention(c, in);
      const auto cut = [&](const at::Tensor& x) { return x.narrow(1, 0, length); };
      AttentionCase shorter = c;
      shorter.T = length;
      const AttentionOutputs alone = run_attention(shorter.layout(), cut(in.q), cut(in.k), cut(in.v), cut(in.d_o));
      EXPECT_TRUE(same_bits(cut(padded.o), alone.o)) << length;
      EXPECT_TRUE(same_bits(padded.lse.narrow(2, 0, length), alone.lse)) << length;
      EXPECT_TRUE(same_bits(cut(padded.d_q), alone.d_q)) << length;
      EXPECT_TRUE(same_bits(cut(padded.d_k), alone.d_k)) << length;
      EXPECT_TRUE(same_bits(cut(padded.d_v), alone.d_v)) << length;
      for (const at::Tensor& x : {padded.o, padded.d_q, padded.d_k, padded.d_v}) {
        for (const double e : doubles(x)) ASSERT_TRUE(std::isfinite(e));
      }
    }
  }
}

TEST(AttentionVisibility, DocumentsDoNotMix) {
  AttentionCase c{1, 200, 2, 1, 64, 64, 1};
  c.documents = {{0, 50, 131, 132}};
  const AttentionInputs in(c);
  const AttentionOutputs before = run_attention(c, in);
  in.qkv.narrow(1, 50, 81).add_(1);
  in.d_o.narrow(1, 50, 81).add_(1);
  const AttentionOutputs after = run_attention(c, in);
  for (const auto [begin, end] : {std::pair<int64_t, int64_t>{0, 50}, {131, 200}}) {
    const auto cut = [&](const at::Tensor& x) { return x.narrow(1, begin, end - begin); };
    EXPECT_TRUE(same_bits(cut(before.o), cut(after.o)));
    EXPECT_TRUE(same_bits(cut(before.d_q), cut(after.d_q)));
    EXPECT_TRUE(same_bits(cut(before.d_k), cut(after.d_k)));
    EXPECT_TRUE(same_bits(cut(before.d_v), cut(after.d_v)));
  }
}

}  // namespace
}  // namespace longlora::test
