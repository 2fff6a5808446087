#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <random>

#include "support/error_of.h"
#include "tokenizer/sp_chunks.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

const std::vector<std::string> kPieces{"▁", "a", "b", "▁a", "ab", "▁ab", "▁▁", "é", "s", "<", ">", "/", "▁b▁a", "b▁"};
enum : int32_t { kSpace = 259, kA, kB, kSpaceA, kAB, kSpaceAB, kTwoSpaces, kE, kS };

TEST(SpTokenizer, EncodesLikeTheLibraryAndFallsBackToBytes) {
  const auto tokenizer = load_model(SmallModel(kPieces).bytes());
  EXPECT_EQ(tokenizer->encode("ab"), (Ids{kSpaceAB}));
  EXPECT_EQ(tokenizer->encode(" ab"), (Ids{kSpace, kSpaceAB}));
  EXPECT_EQ(tokenizer->encode("é\n"), (Ids{kSpace, kE, 3 + 10}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->encode("a", {.add_bos = true, .add_eos = true}), (Ids{1, kSpaceA, 2}));
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_FALSE(tokenizer->adds_eos());
  EXPECT_EQ(tokenizer->vocab_size(), 273);
  EXPECT_EQ(tokenizer->id_of("<0x0A>"), 13);
  EXPECT_EQ(error_of([&] { tokenizer->encode("\x80"); }), "invalid UTF-8 at byte 0 (text to encode); give UTF-8 text");
}

TEST(SpTokenizer, LegacyPutsADummyPrefixBehindEverySpecialToken) {
  const auto legacy = load_model(SmallModel(kPieces).bytes());
  const auto modern = load_model(SmallModel(kPieces).bytes(), R"({"legacy":false})");
  const EncodeOptions parsed{.parse_special = true};
  EXPECT_EQ(legacy->encode("a<s>ab</s>", parsed), (Ids{kSpaceA, 1, kSpaceAB, 2}));
  EXPECT_EQ(modern->encode("a<s>ab</s>", parsed), (Ids{kSpaceA, 1, kAB, 2}));
  EXPECT_EQ(modern->encode("<s> ab", parsed), (Ids{1, kSpaceAB}));
  EXPECT_EQ(legacy->encode("<s>"), (Ids{kSpace, 268, kS, 269}));   // plain text
}

TEST(SpTokenizer, TakesAddedTokensFromTheConfig) {
  const std::string config = R"({"added_tokens_decoder":{"273":{"content":"<pad>","special":true},"274":{"content":"ba","special":false}},
                                "eos_token":"<pad>","add_bos_token":false,"add_eos_token":true})";
  const auto tokenizer = load_model(SmallModel(kPieces).bytes(), config);
  EXPECT_EQ(tokenizer->vocab_size(), 275);
  EXPECT_EQ(tokenizer->eos(), 273);
  EXPECT_TRUE(tokenizer->is_special(273));
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_TRUE(tokenizer->adds_eos());
  EXPECT_EQ(tokenizer->encode("aba<pad>", {.parse_special = true}), (Ids{kSpaceA, 274, 273}));
  EXPECT_EQ(tokenizer->decode({kSpaceA, 274, 273}), "aba");
}

TEST(SpTokenizer, DecodesTextAndMarkers) {
  const auto tokenizer = load_model(SmallModel(kPieces).bytes());
  EXPECT_EQ(tokenizer->decode({1, kSpaceAB, kSpaceA, 2}), "ab a");
  EXPECT_EQ(tokenizer->decode({1, kSpaceAB, 2}, false), "<s>ab</s>");
  EXPECT_EQ(tokenizer->decode({kSpace, 3 + 0xF0, 3 + 0x9F, 3 + 0xA6, 3 + 0x99}), "\U0001F999");
  EXPECT_EQ(kind_of([&] { tokenizer->decode({999}); }), ErrorKind::data);
}

TEST(SpTokenizer, RefusesConfigsThatDoNotFit) {
  const std::string model = SmallModel(kPieces).bytes();
  EXPECT_NE(error_of([&] { load_model(model, R"({"bos_token":"<nope>"})"); }).find("bos_token <nope> is not in the vocabulary"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { load_model(model, R"({"added_tokens_decoder":{"5":{"content":"zz"}}})"); }).find("does not fit the model's pieces"),
      std::string::npos);
  EXPECT_NE(error_of([&] { load_model(model, R"({"added_tokens_decoder":{"x":{"content":"zz"}}})"); }).find("key 'x' is no token id"),
            std::string::npos);
}

/// The library on the whole text at once.
Ids whole(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  std::vector<int> ids;
  EXPECT_TRUE(processor.Encode(text, &ids).ok());
  return Ids(ids.begin(), ids.end());
}

TEST(SpTokenizer, ChunksChangeNothing) {
  SmallModel small(kPieces);
  small.texts.push_back("e s"), small.types.push_back(PieceType::user_defined);   // a piece across a space
  const std::string model = small.bytes();
  const ChunkRule rule(walk_model_proto(model, "m"));
  ASSERT_TRUE(rule.cuts());
  const auto tokenizer = load_model(model);
  std::mt19937 random(11);
  const std::vector<std::string> bits{"a", "b", "ab", " ", " ", " a", "  ", "\u00e9", "\u2581", "e s", "e", "\n", "<s>", "\U0001F999"};
  size_t chunks = 0;
  for (int round = 0; round < 20; ++round) {
    std::string text;
    while (text.size() < 40'000) text += bits[random() % bits.size()];
    for (size_t at = 0; at < text.size(); at = rule.end_of_chunk(text, at)) ++chunks;
    ASSERT_EQ(tokenizer->encode(text), whole(model, text)) << round;
  }
  EXPECT_GT(chunks, 150u);
}

TEST(SpTokenizer, ModelsThatRewriteTextAreNotCut) {
  const auto cuts = [](const std::string& bytes) { return ChunkRule(walk_model_proto(bytes, "m")).cuts(); };
  const std::string good = SmallModel(kPieces).bytes();
  EXPECT_TRUE(cuts(good));
  EXPECT_FALSE(cuts(good + std::string("\x1A\x02\x20\x01")));          // remove_extra_whitespaces
  EXPECT_FALSE(cuts(good + std::string("\x1A\x02\x28\x00", 4)));       // escape_whitespaces off
  EXPECT_FALSE(cuts(good + std::string("\x12\x02\x18\x01")));          // unigram
  EXPECT_FALSE(cuts(good + std::string("\x12\x03\xC0\x01\x01")));      // treat_whitespace_as_suffix
  EXPECT_FALSE(cuts(SmallModel({"a"}).bytes()));                        // no piece for a space
}

}  // namespace
}  // namespace longlora
