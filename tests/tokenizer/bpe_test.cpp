#include "tokenizer/bpe_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace longlora {
namespace {

/// From the definition: find the pair of lowest rank, leftmost; join it; begin again.
std::vector<int32_t> slow_bpe(std::vector<int32_t> symbols, const BpeModel::Merges& merges) {
  std::map<std::pair<int32_t, int32_t>, std::pair<size_t, int32_t>> rules;
  for (size_t rank = 0; rank < merges.size(); ++rank) rules[{merges[rank][0], merges[rank][1]}] = {rank, merges[rank][2]};
  for (;;) {
    size_t best_rank = SIZE_MAX, best_at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto rule = rules.find({symbols[i], symbols[i + 1]});
      if (rule != rules.end() && rule->second.first < best_rank) best_rank = rule->second.first, best_at = i;
    }
    if (best_rank == SIZE_MAX) return symbols;
    symbols[best_at] = merges[best_rank][2];
    symbols.erase(symbols.begin() + static_cast<int64_t>(best_at) + 1);
  }
}

struct RandomBpe {
  Vocabulary vocabulary;
  BpeModel::Merges merges;

  RandomBpe(std::mt19937& random, int alphabet, int num_merges) {
    for (int i = 0; i < alphabet; ++i) vocabulary.add(std::string(1, static_cast<char>('a' + i)), i);
    std::map<std::pair<int32_t, int32_t>, bool> seen;
    for (int i = 0; i < num_merges; ++i) {
      const int32_t left = static_cast<int32_t>(random() % static_cast<size_t>(vocabulary.end_id()));
      const int32_t right = static_cast<int32_t>(random() % static_cast<size_t>(vocabulary.end_id()));
      const std::string joined = *vocabulary.text_of(left) + *vocabulary.text_of(right);
      if (joined.size() > 12 || seen[{left, right}]) continue;
      seen[{left, right}] = true;
      vocabulary.add(joined, vocabulary.end_id());
      merges.push_back({left, right, *vocabulary.id_of(joined)});
    }
    std::shuffle(merges.begin(), merges.end(), random);   // merges need not stand in the order in which they become possible
  }
};

std::vector<int32_t> encode(const BpeModel& model, std::string_view word) {
  std::vector<int32_t> out;
  BpeScratch scratch;
  model.encode(word, out, scratch);
  return out;
}

TEST(Bpe, EqualsTheDefinitionOnRandomMerges) {
  std::mt19937 random(7);
  size_t checked = 0;
  for (int round = 0; round < 300; ++round) {
    const int alphabet = 1 + round % 5;
    const RandomBpe bpe(random, alphabet, 5 + round % 40);
    const BpeModel model(bpe.vocabulary, bpe.merges, {}, {});
    for (const size_t length : {1u, 2u, 3u, 7u, 31u, 64u}) {
      std::string word;
      std::vector<int32_t> symbols;
      for (size_t i = 0; i < length; ++i) {
        symbols.push_back(static_cast<int32_t>(random() % static_cast<size_t>(alphabet)));
        word += static_cast<char>('a' + symbols.back());
      }
      ASSERT_EQ(encode(model, word), slow_bpe(symbols, bpe.merges)) << word << " round " << round;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 1800u);
}

TEST(Bpe, EqualsTheDefinitionWhenBytesTakePartInMerges) {
  Vocabulary vocabulary;
  for (const char* token : {"a", "<0xC3>", "<0xA9>", "<0xC3><0xA9>", "<0xC3><0xA9>a"}) vocabulary.add(token, vocabulary.end_id());
  const BpeModel::Merges merges{{1, 2, 3}, {3, 0, 4}};
  const BpeModel model(vocabulary, merges, {}, {.byte_fallback = true});
  EXPECT_EQ(encode(model, "\u00e9a"), slow_bpe({1, 2, 0}, merges));
  EXPECT_EQ(encode(model, "\u00e9a"), (std::vector<int32_t>{4}));
}

TEST(Bpe, UnknownCharactersFuseOrNot) {
  Vocabulary vocabulary;
  for (const char* token : {"<unk>", "a", "<0x62>"}) vocabulary.add(token, vocabulary.end_id());
  const auto run = [&](BpeOptions options, std::string_view word) { return encode(BpeModel(vocabulary, {}, {}, options), word); };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(run({.unknown = 0}, "axya"), (Ids{1, 0, 0, 1}));
  EXPECT_EQ(run({.fuse_unk = true, .unknown = 0}, "axyaz"), (Ids{1, 0, 1, 0}));
  EXPECT_EQ(run({}, "axya"), (Ids{1, 1}));                                            // nothing to say for x and y
  EXPECT_EQ(run({.byte_fallback = true, .unknown = 0}, "abx"), (Ids{1, 2, 0}));       // x has no byte token
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  Vocabulary vocabulary;
  for (const char* token : {"a", "b", "c", "ab", "bc", "abc"}) vocabulary.add(token, vocabulary.end_id());
  const BpeModel::Merges merges{{1, 2, 4}};   // no way to abc
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {}, {}), "abc"), (std::vector<int32_t>{0, 4}));
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {}, {.ignore_merges = true}), "abc"), (std::vector<int32_t>{5}));
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {}, {.ignore_merges = true}), "abca"), (std::vector<int32_t>{0, 4, 0}));
}

TEST(Bpe, SpecialTokensNeverComeOutOfPlainText) {
  Vocabulary vocabulary;
  for (const char* token : {"a", "b", "ab", "aba"}) vocabulary.add(token, vocabulary.end_id());
  const BpeModel::Merges merges{{0, 1, 2}, {2, 0, 3}};
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {3}, {}), "abaab"), (std::vector<int32_t>{2, 0, 2}));
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {2}, {}), "abaab"), (std::vector<int32_t>{3, 0, 1}));  // inside a longer token it may stand
  EXPECT_EQ(encode(BpeModel(vocabulary, merges, {2, 3}, {.ignore_merges = true}), "aba"), (std::vector<int32_t>{0, 1, 0}));
}

TEST(Bpe, OneWordOfMegabytesTakesSecondsAtMost) {
  std::mt19937 random(1);
  const RandomBpe bpe(random, 3, 60);
  const BpeModel model(bpe.vocabulary, bpe.merges, {}, {});
  std::string word;
  for (int i = 0; i < 1'000'000; ++i) word += static_cast<char>('a' + random() % 3);
  std::string back;
  for (const int32_t id : encode(model, word)) back += *bpe.vocabulary.text_of(id);
  EXPECT_EQ(back, word);
}

}  // namespace
}  // namespace longlora
