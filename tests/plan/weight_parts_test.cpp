#include "longlora/plan/weight_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/published_models.h"
#include "support/error_of.h"

namespace longlora {
namespace {

ModelConfig shape(int64_t hidden, int64_t ffn, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  ModelConfig m = llama2(2, hidden, ffn, heads, kv_heads);
  m.head_dim = head_dim;
  return m;
}

TEST(WeightParts, EveryElementHasOneOwnerAndOnePlace) {
  const ModelConfig models[] = {llama2_7b(), llama2_70b(), shape(24, 20, 4, 2, 8), shape(15, 22, 3, 1, 6), shape(8, 1, 1, 1, 2)};
  for (const ModelConfig& model : models) {
    for (const int64_t element_bytes : {2, 4}) {
      for (int64_t ranks = 1; ranks <= 9; ++ranks) {
        const WeightParts parts(model, element_bytes, ranks);
        const int64_t part = parts.part_bytes() / element_bytes;
        EXPECT_EQ(parts.part_bytes() % 256, 0);
        int64_t end = 0;
        for (size_t t = 0; t < parts.tensors().size(); ++t) {
          const WeightParts::Tensor& tensor = parts.tensors()[t];
          EXPECT_GE(tensor.begin, end);
          end = tensor.begin + tensor.elements;
          int64_t next = 0;
          for (int64_t rank = 0; rank < ranks; ++rank) {
            const WeightParts::Own own = parts.own(rank, t);
            if (own.count == 0) continue;
            EXPECT_EQ(own.first, next);  // ranks in ascending order, no gap
            EXPECT_EQ(rank * part + own.place, tensor.begin + own.first);
            EXPECT_LE(own.place + own.count, part);
            EXPECT_EQ(own.first * element_bytes % 4, 0);  // a part begins with a whole word
            next = own.first + own.count;
          }
          EXPECT_EQ(next, tensor.elements);
        }
        EXPECT_LE(end * element_bytes, parts.layer_bytes());
        EXPECT_LT(parts.layer_bytes() - end * element_bytes, ranks * 256);
      }
    }
  }
}

TEST(WeightParts, TensorsOfUsualModelsAreAligned) {
  for (const ModelConfig& model : {llama2_7b(), llama2_13b(), llama2_70b()}) {
    const WeightParts parts(model, 2, 8);
    for (const WeightParts::Tensor& tensor : parts.tensors()) EXPECT_EQ(tensor.begin * 2 % 256, 0);
  }
}

TEST(WeightParts, RowsOfOneProductAreNeighbours) {
  const WeightParts parts(shape(15, 22, 3, 1, 6), 2, 3);
  const std::vector<WeightParts::Tensor>& t = parts.tensors();
  for (const size_t follower : {1, 2, 5}) EXPECT_EQ(t[follower].begin, t[follower - 1].begin + t[follower - 1].elements);
  for (const size_t leader : {0, 3, 4, 6}) EXPECT_EQ(t[leader].begin * 2 % 256, 0);
}

TEST(WeightParts, AHalfWordCannotBeShared) {
  const auto error = thrown_by([] { WeightParts(shape(15, 21, 2, 1, 8), 2, 2); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::config);
  EXPECT_THAT(error->what_happened, testing::HasSubstr("gate_proj"));
  EXPECT_NO_THROW(WeightParts(shape(15, 21, 2, 1, 8), 4, 2));
  EXPECT_NO_THROW(WeightParts(shape(15, 21, 2, 1, 8), 2, 1));
}

}  // namespace
}  // namespace longlora
