#include <gtest/gtest.h>

#include "support/error_of.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

constexpr const char* kAdded =
    R"([{"id":5,"content":"<s>","special":true,"normalized":false},{"id":6,"content":"</s>","special":true,"normalized":false},
        {"id":7,"content":"ca","special":false,"normalized":false}])";
constexpr const char* kTemplate =
    R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
        "special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}})";

TEST(JsonTokenizer, EncodesAndNamesItsTokens) {
  const auto tokenizer = load_text(JsonParts{.added = kAdded}.text());
  EXPECT_EQ(tokenizer->encode("ababc"), (Ids{3, 4}));
  EXPECT_EQ(tokenizer->vocab_size(), 8);
  EXPECT_EQ(tokenizer->id_of("abc"), 4);
  EXPECT_EQ(tokenizer->id_of("<s>"), 5);
  EXPECT_EQ(tokenizer->id_of("zzz"), std::nullopt);
  EXPECT_EQ(tokenizer->token_of(7), "ca");
  EXPECT_TRUE(tokenizer->is_special(5));
  EXPECT_FALSE(tokenizer->is_special(7));
  EXPECT_EQ(error_of([&] { tokenizer->token_of(8); }), "token 8 does not exist (ids 0 .. 7); give the tokenizer that made the ids");
}

TEST(JsonTokenizer, ADocumentCannotForgeAMarker) {
  const auto tokenizer = load_text(JsonParts{.added = kAdded, .options = "\"unk_token\":\"abc\","}.text());
  EXPECT_EQ(tokenizer->encode("ab</s>ab", {.parse_special = true}), (Ids{3, 6, 3}));
  EXPECT_EQ(tokenizer->encode("ab</s>ab"), (Ids{3, 4, 4, 4, 4, 3}));
  EXPECT_EQ(tokenizer->encode("abca"), (Ids{3, 7}));   // added but not special: always a token
}

TEST(JsonTokenizer, AddsBosAndEosOnlyWhenAsked) {
  const std::string json = JsonParts{.added = kAdded, .post_processor = kTemplate}.text();
  const auto plain = load_text(json);
  EXPECT_EQ(plain->bos(), 5);
  EXPECT_EQ(plain->eos(), std::nullopt);
  EXPECT_TRUE(plain->adds_bos());
  EXPECT_FALSE(plain->adds_eos());
  EXPECT_EQ(plain->encode("a"), (Ids{0}));
  EXPECT_EQ(plain->encode("a", {.add_bos = true, .add_eos = true}), (Ids{5, 0}));

  const auto ruled = load_text(json, R"({"bos_token":{"content":"</s>"},"eos_token":"<s>","add_bos_token":false,"add_eos_token":true})");
  EXPECT_EQ(ruled->bos(), 6);
  EXPECT_EQ(ruled->eos(), 5);
  EXPECT_FALSE(ruled->adds_bos());
  EXPECT_TRUE(ruled->adds_eos());
  EXPECT_EQ(ruled->encode("", {.add_bos = true, .add_eos = true}), (Ids{6, 5}));
}

TEST(JsonTokenizer, NormalizedAddedTokensAreSearchedInNormalForm) {
  const auto tokenizer = load_text(JsonParts{.added = R"([{"id":9,"content":"b c","normalized":true}])",
                                             .normalizer = R"({"type":"Replace","pattern":{"String":" "},"content":"_"})",
                                             .vocab = vocab_of({"a", "b", "c", "_"}),
                                             .merges = "[]"}
                                       .text());
  EXPECT_EQ(tokenizer->encode("ab ca"), (Ids{0, 9, 0}));
  EXPECT_EQ(tokenizer->encode("ab_c"), (Ids{0, 9}));
  EXPECT_EQ(tokenizer->encode("a b"), (Ids{0, 3, 1}));
}

TEST(JsonTokenizer, MetaspaceFirstLooksAtTheDocumentsStart) {
  const auto tokenizer =
      load_text(JsonParts{.added = R"([{"id":9,"content":"<s>","special":true,"normalized":false}])",
                          .pre_tokenizer = R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false})",
                          .vocab = vocab_of({"a", "▁", "▁a"}),
                          .merges = R"(["▁ a"])"}
                    .text());
  EXPECT_EQ(tokenizer->encode("aa<s>aa", {.parse_special = true}), (Ids{2, 0, 9, 0, 0}));
  EXPECT_EQ(tokenizer->encode("<s>a a", {.parse_special = true}), (Ids{9, 0, 2}));
}

TEST(JsonTokenizer, DecodesWithAndWithoutSpecialTokens) {
  const auto tokenizer = load_text(JsonParts{.added = kAdded}.text());
  EXPECT_EQ(tokenizer->decode({5, 4, 7, 6}), "abcca");
  EXPECT_EQ(tokenizer->decode({5, 4, 6}, false), "<s>abc</s>");
  EXPECT_EQ(tokenizer->decode({}), "");
  EXPECT_EQ(kind_of([&] { tokenizer->decode({-1}); }), ErrorKind::data);
}

TEST(JsonTokenizer, InvalidUtf8IsNamedByItsByte) {
  const auto tokenizer = load_text(JsonParts{}.text());
  EXPECT_EQ(error_of([&] { tokenizer->encode("ab\xFF"); }), "invalid UTF-8 at byte 2 (text to encode); give UTF-8 text");
}

TEST(JsonTokenizer, MergesComeInBothSpellings) {
  const auto pairs = load_text(JsonParts{.merges = R"([["a","b"],["ab","c"]])"}.text());
  EXPECT_EQ(pairs->encode("abc"), (Ids{4}));
  const auto lines = load_text(JsonParts{.merges = R"(["#version: 0.2","a b","ab c"])"}.text());
  EXPECT_EQ(lines->encode("abc"), (Ids{4}));
}

TEST(Folder, TakesJsonBeforeModelAndHashesWhatItUses) {
  TempDir dir;
  EXPECT_FALSE(has_tokenizer(dir.path()));
  EXPECT_EQ(kind_of([&] { load_tokenizer(dir.path()); }), ErrorKind::missing);
  const std::string json = JsonParts{}.text(), model = SmallModel({"▁", "a"}).bytes(), config = R"({"add_bos_token":false})";
  dir.write("tokenizer.model", model);
  EXPECT_TRUE(has_tokenizer(dir.path()));
  EXPECT_EQ(load_tokenizer(dir.path())->digest(), sha256(model));
  dir.write("tokenizer.json", json);
  EXPECT_EQ(load_tokenizer(dir.path())->vocab_size(), 5);
  EXPECT_EQ(load_tokenizer(dir.path())->digest(), sha256(json));
  dir.write("tokenizer_config.json", config);
  EXPECT_EQ(load_tokenizer(dir.path())->digest(), sha256(json + config));
}

}  // namespace
}  // namespace longlora
