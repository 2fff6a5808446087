// data.md D6: concat equals a naive reference on random corpora; padding, labels, starts, removed rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "data/concat_rows.h"
#include "data/joined_source.h"

namespace longlora {
namespace {

/// Documents in memory.
class Corpus : public TokenSource {
 public:
  explicit Corpus(const std::vector<std::vector<int32_t>>& documents, std::vector<TokenSpan> spans = {}) : spans_(std::move(spans)) {
    for (const auto& d : documents) {
      ids_.insert(ids_.end(), d.begin(), d.end());
      starts_.push_back(ids_.size());
    }
  }
  uint64_t num_tokens() const override { return ids_.size(); }
  std::span<const uint64_t> document_starts() const override { return starts_; }
  std::span<const TokenSpan> target_spans() const override { return spans_; }
  void read(uint64_t first, std::span<int32_t> out) const override {
    std::copy_n(ids_.begin() + static_cast<int64_t>(first), out.size(), out.begin());
  }
  uint32_t vocab_size() const override { return 1000; }
  uint32_t largest_id() const override { return static_cast<uint32_t>(*std::max_element(ids_.begin(), ids_.end())); }
  Digest content_digest() const override { return {}; }
  const std::filesystem::path& path() const override { return path_; }

 private:
  std::vector<int32_t> ids_;
  std::vector<uint64_t> starts_{0};
  std::vector<TokenSpan> spans_;
  std::filesystem::path path_ = "corpus";
};

struct Row {
  std::vector<int32_t> ids, labels;
  std::vector<int64_t> starts;
  bool operator==(const Row&) const = default;
};

/// The definition, token by token: a row is T tokens of the joined stream; a label is the next token of the same document in the row.
std::vector<Row> reference(const std::vector<std::vector<int32_t>>& documents, size_t T, int32_t padding,
                           const std::vector<bool>* is_target = nullptr) {
  struct Token { int32_t id; size_t document; };
  std::vector<Token> stream;
  for (size_t d = 0; d < documents.size(); ++d)
    for (const int32_t id : documents[d]) stream.push_back({id, d});
  std::vector<Row> rows;
  for (size_t begin = 0; begin < stream.size(); begin += T) {
    Row row;
    bool any = false;
    for (size_t t = 0; t < T; ++t) {
      const size_t at = begin + t;
      const bool real = at < stream.size();
      row.ids.push_back(real ? stream[at].id : padding);
      const bool has_next = t + 1 < T && at + 1 < stream.size() && stream[at + 1].document == stream[at].document;
      const bool target = has_next && (!is_target || (*is_target)[at + 1]);
      row.labels.push_back(target ? stream[at + 1].id : -100);
      any |= target;
      const bool starts = t == 0 || at == stream.size() || (real && stream[at].document != stream[at - 1].document);
      if (starts) row.starts.push_back(static_cast<int64_t>(t));
    }
    if (any) rows.push_back(row);
  }
  return rows;
}

std::vector<Row> rows_of(const TokenSource& source, int64_t T, int32_t padding) {
  const ConcatRows table(source, T);
  std::vector<Row> rows;
  for (uint64_t r = 0; r < table.size(); ++r) {
    TokenBatch batch;
    append_concat_row(source, table.first_token(r), T, padding, batch);
    EXPECT_EQ(batch.rows, 1);
    EXPECT_EQ(batch.tokens, T);
    EXPECT_EQ(batch.targets, T - std::count(batch.labels.begin(), batch.labels.end(), -100));
    EXPECT_EQ(batch.padding, r + 1 == table.size() ? static_cast<int64_t>(table.padding()) : 0);
    rows.push_back({batch.ids, batch.labels, batch.document_starts.at(0)});
  }
  return rows;
}

TEST(Concat, EqualsTheReferenceOn1000RandomCorpora) {
  std::mt19937 random(17);
  for (int trial = 0; trial < 1000; ++trial) {
    const int shape = trial % 3;          // mostly short documents, mixed, a few long ones
    std::vector<std::vector<int32_t>> documents(1 + random() % 20);
    for (auto& d : documents) {
      d.resize(1 + random() % (shape == 0 ? 3 : shape == 1 ? 30 : 200));
      for (int32_t& id : d) id = static_cast<int32_t>(random() % 1000);
    }
    const int64_t T = 1 + random() % 40;
    ASSERT_EQ(rows_of(Corpus(documents), T, 77), reference(documents, static_cast<size_t>(T), 77)) << "trial " << trial;
  }
}

TEST(Concat, EqualsTheReferenceWithTargetSpans) {
  std::mt19937 random(18);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<std::vector<int32_t>> documents(1 + random() % 8);
    std::vector<TokenSpan> spans;
    std::vector<bool> is_target;
    for (auto& d : documents) {
      d.resize(1 + random() % 30);
      for (int32_t& id : d) id = static_cast<int32_t>(random() % 1000);
      const uint64_t base = is_target.size();
      is_target.resize(base + d.size());
      for (uint64_t at = random() % 4; at < d.size();) {
        const uint64_t end = std::min<uint64_t>(d.size(), at + 1 + random() % 5);
        spans.push_back({base + at, base + end});
        std::fill(is_target.begin() + static_cast<int64_t>(base + at), is_target.begin() + static_cast<int64_t>(base + end), true);
        at = end + random() % 6;
      }
    }
    if (spans.empty()) continue;
    const int64_t T = 1 + random() % 25;
    ASSERT_EQ(rows_of(Corpus(documents, spans), T, 0), reference(documents, static_cast<size_t>(T), 0, &is_target)) << "trial " << trial;
  }
}

TEST(Concat, CountingTokensGivesCountingRows) {
  std::vector<int32_t> counting(100);
  for (int32_t i = 0; i < 100; ++i) counting[i] = i;
  const auto rows = rows_of(Corpus({counting}), 10, 0);
  ASSERT_EQ(rows.size(), 10u);
  for (int32_t r = 0; r < 10; ++r)
    for (int32_t t = 0; t < 10; ++t) {
      EXPECT_EQ(rows[r].ids[t], r * 10 + t);
      EXPECT_EQ(rows[r].labels[t], t < 9 ? r * 10 + t + 1 : -100);
    }
}

TEST(Concat, PaddingIsADocumentOfItsOwnWithoutTargets) {
  const auto rows = rows_of(Corpus({{1, 2, 3}, {4, 5}}), 4, 9);
  ASSERT_EQ(rows.size(), 1u);             // the second cut holds the single token 5: no target
  EXPECT_EQ(rows[0], (Row{{1, 2, 3, 4}, {2, 3, -100, -100}, {0, 3}}));
  EXPECT_EQ(rows_of(Corpus({{1, 2, 3}, {4, 5, 6}}), 4, 9)[1], (Row{{5, 6, 9, 9}, {6, -100, -100, -100}, {0, 2}}));
}

TEST(Concat, RowsWithoutTargetsAreNamed) {
  const Corpus corpus({{1, 2}, {3}, {4}, {5, 6}, {7}, {8}, {9}});
  const ConcatRows table(corpus, 2);
  EXPECT_EQ(std::vector<uint64_t>(table.removed().begin(), table.removed().end()), (std::vector<uint64_t>{1, 3, 4}));
  ASSERT_EQ(table.size(), 2u);
  EXPECT_EQ(table.first_token(0), 0u);
  EXPECT_EQ(table.first_token(1), 4u);
  EXPECT_EQ(table.padding(), 0u);         // the padded cut was left out
}

TEST(JoinedSource, FilesFormOneStreamAndPlacesNameTheFile) {
  std::vector<JoinedSource::Part> parts;
  parts.push_back({std::make_unique<Corpus>(std::vector<std::vector<int32_t>>{{1, 2}, {3}}), "a"});
  parts.push_back({std::make_unique<Corpus>(std::vector<std::vector<int32_t>>{{4, 5, 6}}, std::vector<TokenSpan>{{2, 3}}), "b"});
  const JoinedSource joined(std::move(parts));
  EXPECT_EQ(joined.num_tokens(), 6u);
  EXPECT_EQ(std::vector(joined.document_starts().begin(), joined.document_starts().end()), (std::vector<uint64_t>{0, 2, 3, 6}));
  for (uint64_t first = 0; first <= 6; ++first)
    for (uint64_t n = 0; n <= 6 - first; ++n) {
      std::vector<int32_t> ids(n);
      joined.read(first, ids);
      for (uint64_t i = 0; i < n; ++i) EXPECT_EQ(ids[i], static_cast<int32_t>(first + i + 1));
    }
  ASSERT_EQ(joined.target_spans().size(), 2u);      // the part without spans trains all its targets
  EXPECT_EQ(joined.target_spans()[0].begin, 1u);
  EXPECT_EQ(joined.target_spans()[1].begin, 5u);
  EXPECT_EQ(joined.place_of(0), "a: document 0, position 0");
  EXPECT_EQ(joined.place_of(2), "a: document 1, position 0");
  EXPECT_EQ(joined.place_of(5), "b: document 0, position 2");
}

}  // namespace
}  // namespace longlora
