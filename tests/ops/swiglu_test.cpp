#include "longlora/ops/swiglu.h"

#include <gtest/gtest.h>

#include "longlora/ops/vector_math.h"
#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

TEST(VectorMath, ExponentialIsAccurateOverItsRange) {
  for (double x = -87.0; x < 88.0; x += 0.0137) {
    const float argument = static_cast<float>(x);
    const double expected = std::exp(static_cast<double>(argument)), got = vec::exp(vec::broadcast(argument))[3];
    ASSERT_NEAR(got / expected, 1.0, 2 * near(DType::f32, 1)) << x;
  }
  EXPECT_TRUE(std::isnan(vec::exp(vec::broadcast(NAN))[0]));
  EXPECT_EQ(vec::exp(vec::broadcast(0.0f))[0], 1.0f);
  EXPECT_LT(vec::exp(vec::broadcast(-INFINITY))[0], 2e-38f);
}

TEST(VectorMath, Bf16RoundsToNearestEvenAndKeepsNan) {
  for (const float x : {0.0f, -0.0f, 1.0f, 1.00390625f, 1.01171875f, 3.14159f, 1e-40f, 3.4e38f, -INFINITY}) {
    c10::BFloat16 out[8];
    vec::store(out, vec::broadcast(x));
    EXPECT_EQ(out[5].x, float_to_bf16(x)) << x;
  }
  c10::BFloat16 out[8];
  vec::store(out, vec::broadcast(NAN));
  EXPECT_TRUE(std::isnan(static_cast<float>(out[7])));
}

TEST(SwiGlu, ForwardEqualsTheDefinition) {
  for (const int64_t width : {1, 7, 8, 33})
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor gate_up = random_tensor({5, 2 * width}, 1, 4.0, type);
      at::Tensor m = at::empty({5, width}, gate_up.options());
      swiglu_forward(gate_up, m);
      const std::vector<double> in = doubles(gate_up);
      std::vector<double> expected;
      for (int64_t n = 0; n < 5; ++n)
        for (int64_t i = 0; i < width; ++i)
          expected.push_back(silu(in[static_cast<size_t>(n * 2 * width + i)]) * in[static_cast<size_t>(n * 2 * width + width + i)]);
      EXPECT_LT(relative_error(doubles(m), expected), near(dtype_of(m), 4)) << width;
    }
}

TEST(SwiGlu, BackwardEqualsCentralDifferences) {
  for (const int64_t width : {1, 9, 16}) {
    const at::Tensor gate_up = random_tensor({4, 2 * width}, 2, 3.0), d_m = random_tensor({4, width}, 3);
    at::Tensor d = gate_up.clone();
    swiglu_backward(d, d_m);
    const std::vector<double> in = doubles(gate_up), g = doubles(d_m);
    std::vector<double> expected;
    for (int64_t n = 0; n < 4; ++n)
      for (int64_t i = 0; i < 2 * width; ++i) {
        const double gate = in[static_cast<size_t>(n * 2 * width + i % width)],
                     up = in[static_cast<size_t>(n * 2 * width + width + i % width)];
        const double step = 1e-6, weight = g[static_cast<size_t>(n * width + i % width)];
        expected.push_back(i < width ? weight * up * (silu(gate + step) - silu(gate - step)) / (2 * step) : weight * silu(gate));
      }
    EXPECT_LT(relative_error(doubles(d), expected), finite_difference_error()) << width;
  }
}

TEST(SwiGlu, ExtremeGatesStayFinite) {
  at::Tensor gate_up = at::empty({1, 4}, at::TensorOptions().dtype(at::kFloat));
  const float values[4] = {-1e30f, 1e4f, 2.0f, 2.0f};
  std::memcpy(gate_up.data_ptr<float>(), values, sizeof values);
  at::Tensor m = at::empty({1, 2}, gate_up.options());
  swiglu_forward(gate_up, m);
  EXPECT_NEAR(m.data_ptr<float>()[0], 0.0f, 1e-6f);
  EXPECT_EQ(m.data_ptr<float>()[1], 2e4f);
}

}  // namespace
}  // namespace longlora::test
