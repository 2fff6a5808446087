// Parts of a batch put side by side are the batch.
#include <gtest/gtest.h>

#include "longlora/data/token_batch.h"

namespace longlora {
namespace {

TokenBatch some_batch(int64_t rows, int64_t tokens) {
  TokenBatch batch;
  batch.rows = rows;
  batch.tokens = tokens;
  for (int64_t i = 0; i < rows * tokens; ++i) {
    batch.ids.push_back(static_cast<int32_t>(i));
    batch.labels.push_back(i % 5 == 2 ? TokenBatch::kIgnored : static_cast<int32_t>(1000 + i));
    batch.targets += i % 5 == 2 ? 0 : 1;
  }
  for (int64_t row = 0; row < rows; ++row) batch.global_rows.push_back(static_cast<uint64_t>(70 + row));
  batch.padding = 3;
  return batch;
}

TEST(CutSequence, PartsSideBySideAreTheRows) {
  const TokenBatch whole = some_batch(3, 29);
  for (const int64_t parts : {1, 2, 4, 8}) {
    std::vector<int32_t> ids(whole.ids.size()), labels(whole.labels.size());
    int64_t targets = 0;
    for (int64_t index = 0; index < parts; ++index) {
      const SequencePart part = sequence_part(29, 6, parts, index);
      const TokenBatch cut = cut_sequence(whole, part);
      ASSERT_EQ(cut.rows, 3);
      ASSERT_EQ(cut.tokens, part.tokens());
      EXPECT_EQ(cut.first_position, part.begin);
      EXPECT_EQ(cut.row_tokens, 29);
      EXPECT_EQ(cut.global_rows, whole.global_rows);
      EXPECT_EQ(cut.padding, whole.padding);
      targets += cut.targets;
      for (int64_t row = 0; row < 3; ++row)
        for (int64_t t = 0; t < cut.tokens; ++t) {
          const auto to = static_cast<size_t>(row * 29 + part.begin + t), from = static_cast<size_t>(row * cut.tokens + t);
          ids[to] = cut.ids.at(from), labels[to] = cut.labels.at(from);
        }
    }
    EXPECT_EQ(ids, whole.ids);
    EXPECT_EQ(labels, whole.labels);
    EXPECT_EQ(targets, whole.targets);
  }
}

}  // namespace
}  // namespace longlora
