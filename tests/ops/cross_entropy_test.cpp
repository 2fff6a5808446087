#include "longlora/ops/cross_entropy.h"

#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

double log_sum_exp(const std::vector<double>& row) {
  double maximum = -INFINITY, total = 0;
  for (double x : row) maximum = std::max(maximum, x);
  for (double x : row) total += std::exp(x - maximum);
  return maximum + std::log(total);
}

TEST(CrossEntropy, LossAndGradientEqualTheDefinition) {
  for (const int64_t width : {1, 2, 7, 8, 9, 100, 5003}) {
    const int64_t rows = 5;
    at::Tensor logits = random_tensor({rows, width}, 1, 5.0);
    const std::vector<double> in = doubles(logits);
    std::vector<int32_t> labels;
    for (int64_t n = 0; n < rows; ++n) labels.push_back(static_cast<int32_t>((n * 7919 + width - 1) % width));
    std::vector<float> nll(5), nll_only(5);
    cross_entropy_forward(logits, labels, nll_only);
    EXPECT_EQ(doubles(logits), in);
    const float scale = 0.125f;
    cross_entropy_forward_backward(logits, labels, scale, nll);
    EXPECT_EQ(nll, nll_only);
    std::vector<double> expected;
    for (int64_t n = 0; n < rows; ++n) {
      const std::vector<double> row(in.begin() + n * width, in.begin() + (n + 1) * width);
      const double lse = log_sum_exp(row);
      const auto label = static_cast<size_t>(labels[static_cast<size_t>(n)]);
      EXPECT_NEAR(nll[static_cast<size_t>(n)], lse - row[label], 20 * near(DType::f32, 1));
      for (size_t v = 0; v < row.size(); ++v) expected.push_back(scale * (std::exp(row[v] - lse) - (v == label ? 1.0 : 0.0)));
    }
    EXPECT_LT(relative_error(doubles(logits), expected), width == 1 ? INFINITY : 4 * near(DType::f32, 1)) << width;
    if (width == 1) EXPECT_NEAR(doubles(logits)[0], 0.0, 1e-7);
  }
}

TEST(CrossEntropy, HugeLogitsStayFiniteAndNanIsNotHidden) {
  at::Tensor logits = random_tensor({2, 20}, 2, 1e4);
  const std::vector<int32_t> labels = {3, 4};
  std::vector<float> nll(2);
  logits.data_ptr<float>()[25] = NAN;
  cross_entropy_forward_backward(logits, labels, 1.0f, nll);
  EXPECT_TRUE(std::isfinite(nll[0]));
  EXPECT_TRUE(std::isnan(nll[1]));
}

TEST(CrossEntropy, LabelOutsideTheVocabularyIsRefused) {
  at::Tensor logits = random_tensor({1, 5}, 3);
  const std::vector<int32_t> labels = {5};
  std::vector<float> nll(1);
  EXPECT_EQ(error_of([&] { cross_entropy_forward(logits, labels, nll); }),
            "label 5, expected 0 to 4 (labels); tokenise the data with this model's tokenizer");
}

}  // namespace
}  // namespace longlora::test
