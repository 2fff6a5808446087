// What must hold whatever the numbers are: equal bits, and sums that are known (docs/attention.md section 9.3).
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "attention_case.h"

namespace longlora::test {
namespace {

void expect_same(const AttentionOutputs& a, const AttentionOutputs& b, const std::string& what) {
  EXPECT_TRUE(same_bits(a.o, b.o)) << what << " o";
  EXPECT_TRUE(same_bits(a.lse, b.lse)) << what << " lse";
  EXPECT_TRUE(same_bits(a.d_q, b.d_q)) << what << " d_q";
  EXPECT_TRUE(same_bits(a.d_k, b.d_k)) << what << " d_k";
  EXPECT_TRUE(same_bits(a.d_v, b.d_v)) << what << " d_v";
}

/// The same call on tokens [begin, end) as a row of its own.
AttentionOutputs run_part(AttentionCase c, const AttentionInputs& in, int64_t begin, int64_t end) {
  const auto cut = [&](const at::Tensor& x) { return x.narrow(1, begin, end - begin); };
  c.T = end - begin;
  c.documents.clear();
  return run_attention(c.layout(), cut(in.q), cut(in.k), cut(in.v), cut(in.d_o));
}

void expect_part(const AttentionOutputs& whole, int64_t begin, int64_t end, const AttentionOutputs& part, const std::string& what) {
  const auto cut = [&](const at::Tensor& x, int64_t dim) { return x.narrow(dim, begin, end - begin); };
  expect_same({cut(whole.o, 1), cut(whole.lse, 2), cut(whole.d_q, 1), cut(whole.d_k, 1), cut(whole.d_v, 1)}, part, what);
}

TEST(AttentionIdentity, GroupOfTwiceTheRowIsFullAttention) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t T : {1, 17, 129, 300}) {
      for (const int64_t num_plain : {0, 4, 9}) {
        AttentionCase c{1, T, 9, 3, 64, 2 * T, num_plain};
        c.type = type;
        const AttentionInputs in(c);
        const AttentionOutputs s2 = run_attention(c, in);
        c.kind = AttentionKind::full;
        expect_same(s2, run_attention(c, in), "T " + std::to_string(T));
      }
    }
  }
}

TEST(AttentionIdentity, FullIsFullForEveryGroupAndPattern) {
  AttentionCase c{1, 200, 4, 2, 64, 64, 2, AttentionKind::full};
  const AttentionInputs in(c);
  const AttentionOutputs first = run_attention(c, in);
  for (const int64_t group : {0, 7, 30, 200}) {
    c.group = group;
    c.num_plain = group % 5;
    expect_same(first, run_attention(c, in), "group " + std::to_string(group));
  }
}

/// b >= T in the middle row only: at group = T shifted heads are still cut in the middle.
TEST(AttentionIdentity, GroupOfOneRowStillSplitsShiftedHeads) {
  AttentionCase c{1, 128, 2, 2, 64, 128, 1};
  const AttentionInputs in(c);
  const AttentionOutputs s2 = run_attention(c, in);
  c.kind = AttentionKind::full;
  const AttentionOutputs full = run_attention(c, in);
  EXPECT_TRUE(same_bits(s2.o.narrow(2, 0, 1), full.o.narrow(2, 0, 1)));
  EXPECT_TRUE(same_bits(s2.o.narrow(2, 1, 1).narrow(1, 0, 64), full.o.narrow(2, 1, 1).narrow(1, 0, 64)));
  EXPECT_FALSE(same_bits(s2.o.narrow(2, 1, 1), full.o.narrow(2, 1, 1)));
}

TEST(AttentionIdentity, SegmentsAreRowsOfTheirOwn) {  // concatenation and shift identities, in bits where segments lie on tiles
  AttentionCase c{1, 1536, 2, 2, 64, 1024, 1};
  const AttentionInputs in(c);
  const AttentionOutputs whole = run_attention(c, in);
  AttentionCase full = c;
  full.kind = AttentionKind::full;
  const auto head = [](const AttentionOutputs& r, int64_t h) {
    return AttentionOutputs{r.o.narrow(2, h, 1), r.lse.narrow(1, h, 1), r.d_q.narrow(2, h, 1), r.d_k.narrow(2, h, 1),
                            r.d_v.narrow(2, h, 1)};
  };
  expect_part(head(whole, 0), 0, 1024, head(run_part(full, in, 0, 1024), 0), "plain");
  expect_part(head(whole, 0), 1024, 1536, head(run_part(full, in, 1024, 1536), 0), "plain");
  expect_part(head(whole, 1), 0, 512, head(run_part(full, in, 0, 512), 1), "shifted");
  expect_part(head(whole, 1), 512, 1536, head(run_part(full, in, 512, 1536), 1), "shifted");
}

TEST(AttentionIdentity, PackedDocumentGivesWhatItGivesAlone) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    AttentionCase c{1, 1300, 3, 1, 64, 100, 1};
    c.type = type;
    c.documents = {{0, 512, 1024, 1025, 1100}};
    const AttentionInputs in(c);
    const AttentionOutputs whole = run_attention(c, in);
    expect_part(whole, 0, 512, run_part(c, in, 0, 512), "first");  // tile-aligned starts: equal bits
    expect_part(whole, 512, 1024, run_part(c, in, 512, 1024), "second");
    const AttentionOutputs alone = run_part(c, in, 1100, 1300);  // elsewhere: to rounding
    const double bound = attention_bounds(dtype_of(in.q)).d_q.largest;
    const auto cut = [](const at::Tensor& x) { return doubles(x.narrow(1, 1100, 200)); };
    EXPECT_LT(relative_error(cut(whole.o), doubles(alone.o)), bound);
    EXPECT_LT(relative_error(cut(whole.d_q), doubles(alone.d_q)), bound);
    EXPECT_LT(relative_error(cut(whole.d_k), doubles(alone.d_k)), bound);
    EXPECT_LT(relative_error(cut(whole.d_v), doubles(alone.d_v)), bound);
  }
}

TEST(AttentionIdentity, OneDocumentListChangesNothing) {
  AttentionCase c{2, 150, 2, 2, 64, 64, 1};
  const AttentionInputs in(c);
  const AttentionOutputs first = run_attention(c, in);
  c.documents = {{0}, {}};
  expect_same(first, run_attention(c, in), "one document");
}

TEST(AttentionIdentity, OnesInGiveOnesOut) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    AttentionCase c{1, 333, 4, 2, 64, 100, 2};
    c.type = type;
    const AttentionInputs in(c);
    in.v.fill_(1);
    const double bound = type == at::kFloat ? near(DType::f32, 64) : 2 * rounding_unit(DType::bf16);
    for (const double x : doubles(run_attention(c, in).o)) ASSERT_NEAR(x, 1, bound);
  }
}

TEST(AttentionIdentity, ValueGradientsSumToOutputGradients) {  // over a segment: sum_u dV[u] = sum over heads and rows of dO
  AttentionCase c{1, 200, 3, 1, 64, 128, 3};
  const AttentionInputs in(c);
  const AttentionOutputs r = run_attention(c, in);
  for (const auto [begin, end] : {std::pair<int64_t, int64_t>{0, 128}, {128, 200}}) {
    const at::Tensor got = r.d_v.narrow(1, begin, end - begin).sum(at::IntArrayRef{0, 1, 2});
    const at::Tensor want = in.d_o.narrow(1, begin, end - begin).sum(at::IntArrayRef{0, 1, 2});
    EXPECT_LT(relative_error(doubles(got), doubles(want)), near(DType::f32, 200 * 3));
  }
}

TEST(AttentionIdentity, EqualKeysGiveNoQueryGradient) {
  AttentionCase c{1, 150, 2, 2, 64, 64, 1};
  const AttentionInputs in(c);
  in.k.fill_(0.5);
  const AttentionOutputs r = run_attention(c, in);
  for (const double x : doubles(r.d_q)) ASSERT_NEAR(x, 0, near(DType::f32, 64 * 64));
}

TEST(AttentionIdentity, KeyGradientsVanishInSumAndMatchQueries) {  // sum_u dK[u] pairs with a shift of all keys; <dQ, q> = <dK, k>
  AttentionCase c{1, 256, 2, 2, 64, 128, 2};
  const AttentionInputs in(c);
  const AttentionOutputs r = run_attention(c, in);
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t begin = 0; begin < c.T; begin += 128) {
      const auto cut = [&](const at::Tensor& x) { return x.narrow(1, begin, 128).narrow(2, h, 1).to(at::kDouble); };
      const double q_side = (cut(r.d_q) * cut(in.q)).sum().item<double>(), k_side = (cut(r.d_k) * cut(in.k)).sum().item<double>();
      EXPECT_NEAR(q_side, k_side, near(DType::f32, 128 * 64) * 64) << h << ' ' << begin;
    }
  }
  AttentionInputs same(c);  // equal queries: sum_u dK[u] = scale * q * sum of ds = 0
  same.q.fill_(0.25);
  const AttentionOutputs s = run_attention(c, same);
  for (const double x : doubles(s.d_k.narrow(1, 0, 128).sum(at::IntArrayRef{1}))) ASSERT_NEAR(x, 0, near(DType::f32, 128 * 128));
}

TEST(AttentionIdentity, LinearInValuesAndOutputGradients) {  // powers of two scale without rounding: equal bits
  AttentionCase c{1, 200, 4, 2, 64, 64, 2};
  AttentionInputs in(c);
  const AttentionOutputs one = run_attention(c, in);
  in.v.mul_(4);
  const AttentionOutputs four = run_attention(c, in);
  EXPECT_TRUE(same_bits(four.o, one.o * 4));
  EXPECT_TRUE(same_bits(four.d_k, one.d_k * 4));
  EXPECT_TRUE(same_bits(four.d_v, one.d_v));
  in.v.mul_(0.25);
  in.d_o.mul_(0.5);
  const AttentionOutputs half = run_attention(c, in);
  EXPECT_TRUE(same_bits(half.o, one.o));
  EXPECT_TRUE(same_bits(half.d_q, one.d_q * 0.5));
  EXPECT_TRUE(same_bits(half.d_k, one.d_k * 0.5));
  EXPECT_TRUE(same_bits(half.d_v, one.d_v * 0.5));
}

TEST(AttentionIdentity, PermutedHeadsArePermutedOutputs) {
  AttentionCase c{1, 150, 4, 4, 64, 64, 2};
  const AttentionInputs in(c);
  const AttentionOutputs r = run_attention(c, in);
  const auto swapped = [](const at::Tensor& x, int64_t dim) {  // heads 0 and 1, and 2 and 3
    return at::cat({x.narrow(dim, 1, 1), x.narrow(dim, 0, 1), x.narrow(dim, 3, 1), x.narrow(dim, 2, 1)}, dim);
  };
  const AttentionOutputs p = run_attention(c.layout(), swapped(in.q, 2), swapped(in.k, 2), swapped(in.v, 2), swapped(in.d_o, 2));
  expect_same(p, {swapped(r.o, 2), swapped(r.lse, 1), swapped(r.d_q, 2), swapped(r.d_k, 2), swapped(r.d_v, 2)}, "permuted");
}

TEST(AttentionIdentity, EveryHeadLandsInItsOwnSlot) {  // a transposed or doubled head order shows as a wrong constant
  AttentionCase c{2, 70, 6, 3, 8, 32, 3};
  const AttentionInputs in(c);
  for (int64_t j = 0; j < 3; ++j) in.v.narrow(2, j, 1).fill_(j + 1);
  const AttentionOutputs r = run_attention(c, in);
  for (int64_t h = 0; h < 6; ++h) {
    for (const double x : doubles(r.o.narrow(2, h, 1))) ASSERT_NEAR(x, h / 2 + 1, near(DType::f32, 64)) << h;
  }
}

}  // namespace
}  // namespace longlora::test
