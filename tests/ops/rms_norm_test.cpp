#include "longlora/ops/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

constexpr double kEps = 1e-5;

struct Shape2 {
  int64_t rows, width;
};
const Shape2 kShapes[] = {{1, 1}, {1, 8}, {3, 7}, {64, 16}, {65, 33}, {130, 96}, {257, 61}};
const at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16};

double norm_of_row(const double* x, int64_t width) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
  return std::sqrt(sum / static_cast<double>(width) + kEps);
}

/// sum_n <y[n], g[n]>: the scalar whose gradient `rms_norm_backward` is.
double objective(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& g, int64_t rows, int64_t width) {
  double total = 0;
  for (int64_t n = 0; n < rows; ++n) {
    const double r = norm_of_row(x.data() + n * width, width);
    for (int64_t i = 0; i < width; ++i)
      total += w[static_cast<size_t>(i)] * x[static_cast<size_t>(n * width + i)] / r * g[static_cast<size_t>(n * width + i)];
  }
  return total;
}

TEST(RmsNorm, ForwardEqualsTheDefinition) {
  for (const Shape2 s : kShapes)
    for (const at::ScalarType type : kTypes) {
      const at::Tensor x = random_tensor({s.rows, s.width}, 1, 3.0, type), w = random_tensor({s.width}, 2, 1.0, type);
      at::Tensor y = at::empty_like(x);
      rms_norm_forward(x, w, kEps, y);
      std::vector<double> expected = doubles(x);
      const std::vector<double> weight = doubles(w), values = doubles(x);
      for (int64_t n = 0; n < s.rows; ++n)
        for (int64_t i = 0; i < s.width; ++i)
          expected[static_cast<size_t>(n * s.width + i)] *=
              weight[static_cast<size_t>(i)] / norm_of_row(values.data() + n * s.width, s.width);
      EXPECT_LT(relative_error(doubles(y), expected), near(dtype_of(x), 4)) << s.rows << "x" << s.width;
    }
}

TEST(RmsNorm, BackwardEqualsCentralDifferences) {
  for (const Shape2 s : {Shape2{2, 2}, Shape2{3, 7}, Shape2{65, 9}}) {
    const at::Tensor x = random_tensor({s.rows, s.width}, 3), w = random_tensor({s.width}, 4), g = random_tensor({s.rows, s.width}, 5);
    at::Tensor d_x = at::zeros({s.rows, s.width}), d_w = at::zeros({s.width});
    rms_norm_backward(x, w, kEps, g, d_x, d_w);
    const std::vector<double> gs = doubles(g);
    const auto difference = [&](std::vector<double> xs, std::vector<double> ws, bool of_x, size_t i) {
      const double step = 1e-6;
      double& target = of_x ? xs[i] : ws[i];
      const double centre = target;
      target = centre + step;
      const double up = objective(xs, ws, gs, s.rows, s.width);
      target = centre - step;
      return (up - objective(xs, ws, gs, s.rows, s.width)) / (2 * step);
    };
    std::vector<double> expected_x, expected_w;
    for (size_t i = 0; i < static_cast<size_t>(x.numel()); ++i) expected_x.push_back(difference(doubles(x), doubles(w), true, i));
    for (size_t i = 0; i < static_cast<size_t>(w.numel()); ++i) expected_w.push_back(difference(doubles(x), doubles(w), false, i));
    EXPECT_LT(relative_error(doubles(d_x), expected_x), finite_difference_error()) << s.rows << "x" << s.width;
    EXPECT_LT(relative_error(doubles(d_w), expected_w), finite_difference_error());
  }
}

TEST(RmsNorm, AccumulatesOntoTheResidualOrOverwritesInPlace) {
  const at::Tensor x = random_tensor({70, 24}, 6), w = random_tensor({24}, 7), g = random_tensor({70, 24}, 8),
                   residual = random_tensor({70, 24}, 9);
  at::Tensor none, alone = g.clone(), added = residual.clone();
  rms_norm_backward(x, w, kEps, alone, alone, none, Accumulate::no);
  rms_norm_backward(x, w, kEps, g, added, none);
  EXPECT_LT(relative_error(doubles(added), doubles(residual + alone)), near(DType::f32, 4));
}

TEST(RmsNorm, BitsDoNotDependOnThreads) {
  const at::Tensor x = random_tensor({300, 40}, 10), w = random_tensor({40}, 11), g = random_tensor({300, 40}, 12);
  const int threads = at::get_num_threads();
  at::Tensor first_x, first_w;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    at::Tensor d_x = at::zeros_like(x), d_w = at::zeros({40});
    rms_norm_backward(x, w, kEps, g, d_x, d_w);
    if (n == 1) {
      first_x = d_x;
      first_w = d_w;
    }
    EXPECT_TRUE(same_bits(first_x, d_x));
    EXPECT_TRUE(same_bits(first_w, d_w));
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace longlora::test
