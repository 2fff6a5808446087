#include "longlora/ops/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

TEST(Embedding, GathersRowsAndAddsGradientsOfRepeatedIds) {
  const at::Tensor weight = random_tensor({6, 70}, 1);
  const std::vector<int32_t> ids = {5, 0, 5, 5, 2};
  at::Tensor x = at::empty({5, 70});
  embedding_forward(weight, ids, x);
  for (int64_t n = 0; n < 5; ++n) EXPECT_TRUE(same_bits(x[n], weight[ids[static_cast<size_t>(n)]]));

  const at::Tensor d_x = random_tensor({5, 70}, 2);
  at::Tensor d_weight = at::zeros({6, 70});
  embedding_backward(ids, d_x, d_weight);
  EXPECT_LT(relative_error(doubles(d_weight[5]), doubles(d_x[0] + d_x[2] + d_x[3])), near(DType::f32, 3));
  EXPECT_TRUE(same_bits(d_weight[0], d_x[1]));
  EXPECT_EQ(d_weight[1].abs().sum().item<float>(), 0.0f);
}

TEST(Embedding, BitsDoNotDependOnThreads) {
  std::vector<int32_t> ids;
  for (int32_t n = 0; n < 300; ++n) ids.push_back(n % 7);
  const at::Tensor d_x = random_tensor({300, 200}, 3);
  const int threads = at::get_num_threads();
  at::Tensor first;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    at::Tensor d_weight = at::zeros({7, 200});
    embedding_backward(ids, d_x, d_weight);
    if (n == 1) first = d_weight;
    EXPECT_TRUE(same_bits(first, d_weight));
  }
  at::set_num_threads(threads);
}

TEST(Embedding, IdOutsideTheVocabularyIsRefused) {
  const at::Tensor weight = random_tensor({6, 4}, 4);
  at::Tensor x = at::empty({2, 4});
  EXPECT_EQ(error_of([&] {
              embedding_forward(weight, std::vector<int32_t>{1, 6}, x);
            }),
            "token id 6, expected 0 to 5 (token 1); tokenise the data with this model's tokenizer");
}

}  // namespace
}  // namespace longlora::test
