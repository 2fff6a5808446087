#include "longlora/ops/rope.h"

#include <gtest/gtest.h>

#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

std::vector<float> frequencies(int64_t half) {
  std::vector<float> f;
  for (int64_t i = 0; i < half; ++i)
    f.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half))));
  return f;
}

TEST(Rope, RotatesHalvesByPositionTimesFrequency) {
  for (const int64_t half : {1, 4, 5, 32, 40})
    for (const double factor : {1.0, 1.25}) {
      RopeTable table(frequencies(half), factor);
      table.reserve(100);
      const at::Tensor x = random_tensor({6, 3, 2 * half}, 1);
      at::Tensor y = x.clone();
      const std::vector<int32_t> positions = {99, 98, 0, 1, 7, 50, 3, 2};
      rope_forward(table, positions, 2, y);
      const std::vector<double> in = doubles(x);
      std::vector<double> expected = in;
      for (int64_t n = 0; n < 6; ++n)
        for (int64_t h = 0; h < 3; ++h)
          for (int64_t i = 0; i < half; ++i) {
            const float angle = static_cast<float>(positions[static_cast<size_t>(n + 2)]) * frequencies(half)[static_cast<size_t>(i)];
            const size_t a = static_cast<size_t>((n * 3 + h) * 2 * half + i), b = a + static_cast<size_t>(half);
            expected[a] = factor * (in[a] * std::cos(angle) - in[b] * std::sin(angle));
            expected[b] = factor * (in[b] * std::cos(angle) + in[a] * std::sin(angle));
          }
      EXPECT_LT(relative_error(doubles(y), expected), near(DType::f32, 4)) << "half " << half;
    }
}

TEST(Rope, BackwardIsTheTransposedRotation) {
  RopeTable table(frequencies(9), 1.5);
  table.reserve(8);
  const std::vector<int32_t> positions = {0, 1, 2, 3, 4, 5, 6, 7};
  const at::Tensor x = random_tensor({8, 2, 18}, 2), g = random_tensor({8, 2, 18}, 3);
  at::Tensor y = x.clone(), d_x = at::empty_like(g);
  rope_forward(table, positions, 0, y);
  rope_backward(table, positions, 0, g, d_x);
  const std::vector<double> ys = doubles(y), gs = doubles(g), xs = doubles(x), ds = doubles(d_x);
  double left = 0, right = 0;
  for (size_t i = 0; i < xs.size(); ++i) left += ys[i] * gs[i], right += xs[i] * ds[i];
  EXPECT_NEAR(left, right, std::abs(left) * near(DType::f32, static_cast<int64_t>(xs.size())) + 1e-4);
}

TEST(Rope, WorksOnStridedHeadsAndLeavesNeighboursAlone) {
  RopeTable table(frequencies(4), 1.0);
  table.reserve(5);
  const std::vector<int32_t> positions = {0, 1, 2, 3, 4};
  at::Tensor packed = random_tensor({5, 4, 8}, 4);
  const at::Tensor before = packed.clone();
  at::Tensor middle = packed.narrow(1, 1, 2), alone = before.narrow(1, 1, 2).contiguous();
  rope_forward(table, positions, 0, middle);
  rope_forward(table, positions, 0, alone);
  EXPECT_TRUE(same_bits(middle, alone));
  EXPECT_TRUE(same_bits(packed.narrow(1, 0, 1), before.narrow(1, 0, 1)));
  EXPECT_TRUE(same_bits(packed.narrow(1, 3, 1), before.narrow(1, 3, 1)));
}

TEST(Rope, GrowingTheTableKeepsWhatItHad) {
  RopeTable grown(frequencies(3), 1.0), whole(frequencies(3), 1.0);
  grown.reserve(3);
  grown.reserve(700);
  whole.reserve(700);
  for (const int64_t p : {0, 2, 3, 699})
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(grown.cosines(p)[i], whole.cosines(p)[i]);
      EXPECT_EQ(grown.sines(p)[i], whole.sines(p)[i]);
    }
}

TEST(Rope, PositionsRestartAtDocuments) {
  EXPECT_EQ(token_positions(2, 3, {}), (std::vector<int32_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(token_positions(2, 4, {{0, 1}, {0, 3}}), (std::vector<int32_t>{0, 0, 1, 2, 0, 1, 2, 0}));
}

}  // namespace
}  // namespace longlora::test
