#include "longlora/ops/linear.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

constexpr int64_t kRows = 13, kIn = 11, kRank = 3;
const std::pair<int64_t, int64_t> kParts[] = {{0, 5}, {9, 17}};  // columns 5..8 have no adapter
constexpr int64_t kOut = 17;

/// Everything a Linear needs, and fp64 copies for the oracle.
struct Case {
  Linear linear;
  at::Tensor weight, x, d_y;
  LinearScratch scratch;
  Buffer storage;
  LoraDropout dropout;

  explicit Case(double drop_probability = 0, at::ScalarType type = at::kFloat) {
    weight = random_tensor({kOut, kIn}, 1, 1.0, type);
    x = random_tensor({kRows, kIn}, 2, 1.0, type);
    d_y = random_tensor({kRows, kOut}, 3, 1.0, type);
    linear.d_weight_OI = at::zeros({kOut, kIn});
    linear.a_RI = random_tensor({2 * kRank, kIn}, 4, 1.0, type);
    linear.d_a_RI = at::zeros({2 * kRank, kIn});
    linear.scale = 0.75;
    for (size_t i = 0; i < 2; ++i)
      linear.parts.push_back({kParts[i].first, kParts[i].second,
                              random_tensor({kParts[i].second - kParts[i].first, kRank}, 5 + static_cast<uint32_t>(i), 1.0, type),
                              at::zeros({kParts[i].second - kParts[i].first, kRank}), static_cast<uint8_t>(i)});
    dropout = {.drop_probability = drop_probability, .seed = 99, .layer = 2, .step = 7, .tokens = 5, .global_rows = {4, 8, 15}};
  }
  LinearCall call() { return {.scratch = scratch, .dropout = &dropout, .first_row = 0}; }

  /// drop(x) of a part, in fp64
  std::vector<double> input(size_t part) {
    at::Tensor dropped = at::empty_like(x);
    if (dropout.drop_probability == 0) return doubles(x);
    apply_dropout(dropout, static_cast<uint8_t>(part), 0, x, dropped, Accumulate::no);
    return doubles(dropped);
  }
};

double at(const std::vector<double>& m, int64_t width, int64_t i, int64_t j) { return m[static_cast<size_t>(i * width + j)]; }

/// y = x W' + s drop(x) A' B', by loops
std::vector<double> forward_oracle(Case& c) {
  const std::vector<double> w = doubles(c.weight), x = doubles(c.x), a = doubles(c.linear.a_RI);
  std::vector<double> y(static_cast<size_t>(kRows * kOut));
  for (int64_t n = 0; n < kRows; ++n)
    for (int64_t o = 0; o < kOut; ++o)
      for (int64_t i = 0; i < kIn; ++i) y[static_cast<size_t>(n * kOut + o)] += at(x, kIn, n, i) * at(w, kIn, o, i);
  for (size_t p = 0; p < 2; ++p) {
    const std::vector<double> b = doubles(c.linear.parts[p].b_OR), in = c.input(p);
    for (int64_t n = 0; n < kRows; ++n)
      for (int64_t o = kParts[p].first; o < kParts[p].second; ++o)
        for (int64_t r = 0; r < kRank; ++r)
          for (int64_t i = 0; i < kIn; ++i)
            y[static_cast<size_t>(n * kOut + o)] += c.linear.scale * at(in, kIn, n, i) *
                                                    at(a, kIn, static_cast<int64_t>(p) * kRank + r, i) *
                                                    at(b, kRank, o - kParts[p].first, r);
  }
  return y;
}

struct Gradients {
  std::vector<double> weight, a, b[2], x;
};

/// y is linear in each argument, so its gradients are exact sums.
Gradients backward_oracle(Case& c) {
  const std::vector<double> w = doubles(c.weight), x = doubles(c.x), a = doubles(c.linear.a_RI), g = doubles(c.d_y);
  const std::vector<double> mask_source = doubles(c.x);
  Gradients d;
  d.weight.resize(kOut * kIn);
  d.a.resize(2 * kRank * kIn);
  d.x.resize(kRows * kIn);
  for (int64_t n = 0; n < kRows; ++n)
    for (int64_t o = 0; o < kOut; ++o)
      for (int64_t i = 0; i < kIn; ++i) {
        d.weight[static_cast<size_t>(o * kIn + i)] += at(g, kOut, n, o) * at(x, kIn, n, i);
        d.x[static_cast<size_t>(n * kIn + i)] += at(g, kOut, n, o) * at(w, kIn, o, i);
      }
  for (size_t p = 0; p < 2; ++p) {
    const std::vector<double> b = doubles(c.linear.parts[p].b_OR), in = c.input(p);
    d.b[p].resize(b.size());
    for (int64_t n = 0; n < kRows; ++n)
      for (int64_t o = kParts[p].first; o < kParts[p].second; ++o)
        for (int64_t r = 0; r < kRank; ++r)
          for (int64_t i = 0; i < kIn; ++i) {
            const double s = c.linear.scale * at(g, kOut, n, o), a_ri = at(a, kIn, static_cast<int64_t>(p) * kRank + r, i),
                         b_or = at(b, kRank, o - kParts[p].first, r);
            const double keep = at(in, kIn, n, i) / at(mask_source, kIn, n, i);
            d.b[p][static_cast<size_t>((o - kParts[p].first) * kRank + r)] += s * at(in, kIn, n, i) * a_ri;
            d.a[(p * kRank + static_cast<size_t>(r)) * kIn + static_cast<size_t>(i)] += s * b_or * at(in, kIn, n, i);
            d.x[static_cast<size_t>(n * kIn + i)] += s * b_or * a_ri * keep;
          }
  }
  return d;
}

struct Variant {
  Merge merge;
  double drop_probability;
  at::ScalarType type;
};
const Variant kVariants[] = {
    {Merge::yes, 0, at::kFloat}, {Merge::no, 0, at::kFloat}, {Merge::no, 0.3, at::kFloat}, {Merge::no, 0, at::kBFloat16}};
double tolerance(at::ScalarType type) { return near(type == at::kBFloat16 ? DType::bf16 : DType::f32, 4); }

TEST(Linear, ForwardEqualsTheDefinition) {
  for (const Variant& v : kVariants) {
    Case c(v.drop_probability, v.type);
    const PreparedLinear p = prepare(c.linear, c.weight, v.merge, c.storage);
    EXPECT_EQ(p.merged, v.merge == Merge::yes);
    at::Tensor y = at::empty({kRows, kOut}, c.x.options());
    linear_forward(p, c.call(), c.x, y);
    EXPECT_LT(relative_error(doubles(y), forward_oracle(c)), tolerance(v.type));
    const at::Tensor once = y.clone();
    linear_forward(p, c.call(), c.x, y, Accumulate::yes);
    EXPECT_LT(relative_error(doubles(y), doubles(once + once)), tolerance(v.type));
  }
}

TEST(Linear, BackwardEqualsTheExactSums) {
  for (const Variant& v : kVariants) {
    Case c(v.drop_probability, v.type);
    at::Tensor d_x = at::empty({kRows, kIn}, c.x.options());
    linear_backward(prepare(c.linear, c.weight, v.merge, c.storage), c.call(), c.x, c.d_y, d_x);
    const Gradients expected = backward_oracle(c);
    EXPECT_LT(relative_error(doubles(d_x), expected.x), tolerance(v.type));
    EXPECT_LT(relative_error(doubles(c.linear.d_weight_OI), expected.weight), tolerance(v.type));
    EXPECT_LT(relative_error(doubles(c.linear.d_a_RI), expected.a), tolerance(v.type));
    for (size_t p = 0; p < 2; ++p) EXPECT_LT(relative_error(doubles(c.linear.parts[p].d_b_OR), expected.b[p]), tolerance(v.type));
  }
}

TEST(Linear, ZeroBIsTheBaseBitForBit) {
  for (const Merge merge : {Merge::yes, Merge::no}) {
    Case c;
    for (LoraPart& part : c.linear.parts) part.b_OR.zero_();
    const Linear base;
    at::Tensor with = at::empty({kRows, kOut}), without = at::empty({kRows, kOut});
    linear_forward(prepare(c.linear, c.weight, merge, c.storage), c.call(), c.x, with);
    linear_forward(prepare(base, c.weight, merge, c.storage), c.call(), c.x, without);
    EXPECT_TRUE(same_bits(with, without));
  }
}

TEST(Linear, GradientsAccumulateOverCalls) {
  Case once, twice;
  at::Tensor d_x = at::empty({kRows, kIn});
  linear_backward(prepare(once.linear, once.weight, Merge::yes, once.storage), once.call(), once.x, once.d_y, d_x);
  for (int i = 0; i < 2; ++i)
    linear_backward(prepare(twice.linear, twice.weight, Merge::yes, twice.storage), twice.call(), twice.x, twice.d_y, d_x);
  EXPECT_LT(relative_error(doubles(twice.linear.d_a_RI), doubles(once.linear.d_a_RI * 2)), tolerance(at::kFloat));
  EXPECT_LT(relative_error(doubles(twice.linear.parts[1].d_b_OR), doubles(once.linear.parts[1].d_b_OR * 2)), tolerance(at::kFloat));
}

TEST(Linear, FrozenWithoutAdaptersNeedsNoInput) {
  const Linear frozen;
  EXPECT_FALSE(frozen.backward_needs_input());
  const at::Tensor w = random_tensor({4, 3}, 1), d_y = random_tensor({2, 4}, 2);
  at::Tensor d_x = at::empty({2, 3});
  LinearScratch scratch;
  Buffer storage;
  linear_backward(prepare(frozen, w, Merge::yes, storage), {.scratch = scratch}, at::Tensor(), d_y, d_x);
  EXPECT_LT(relative_error(doubles(d_x), doubles(d_y.matmul(w))), near(DType::f32, 4));
}

TEST(LoraDropout, DropsTheShareAndKeepsTheMean) {
  const at::Tensor ones = at::ones({400, 50});
  const LoraDropout dropout{.drop_probability = 0.25, .seed = 1, .tokens = 100, .global_rows = {0, 1, 2, 3}};
  at::Tensor out = at::empty_like(ones);
  apply_dropout(dropout, 0, 0, ones, out, Accumulate::no);
  EXPECT_NEAR(static_cast<double>(out.eq(0).sum().item<int64_t>()) / 20000, 0.25, 0.02);
  EXPECT_NEAR(out.mean().item<double>(), 1.0, 0.02);
}

TEST(LoraDropout, DependsOnItsPlaceAlone) {
  const at::Tensor ones = at::ones({6, 7});
  const auto mask = [&](LoraDropout d, uint8_t site, int64_t first_row, int64_t rows) {
    at::Tensor out = at::empty({rows, 7});
    apply_dropout(d, site, first_row, ones.narrow(0, 0, rows), out, Accumulate::no);
    return out;
  };
  const LoraDropout base{.drop_probability = 0.5, .seed = 1, .tokens = 3, .global_rows = {10, 11}};
  const at::Tensor whole = mask(base, 0, 0, 6);
  EXPECT_TRUE(same_bits(mask(base, 0, 2, 3), whole.narrow(0, 2, 3)));  // row tiles
  LoraDropout second = base;
  second.global_rows = {11};
  EXPECT_TRUE(same_bits(mask(second, 0, 0, 3), whole.narrow(0, 3, 3)));  // micro-batch split
  LoraDropout other = base;
  other.step = 1;
  EXPECT_FALSE(same_bits(mask(other, 0, 0, 6), whole));
  EXPECT_FALSE(same_bits(mask(base, 1, 0, 6), whole));
}

}  // namespace
}  // namespace longlora::test
