#include <gtest/gtest.h>

#include <random>

#include "support/error_of.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

std::unique_ptr<Tokenizer> load_files(const std::vector<NamedFile>& files, std::string_view without = "") {
  TempDir dir;
  for (const NamedFile& file : files) {
    if (file.name != without) dir.write(file.name, file.bytes);
  }
  return load_tokenizer(dir.path());
}

TokenizerParts byte_level_parts(const std::string& pre) {
  TokenizerParts parts;
  parts.model = "gpt2";
  parts.pre = pre;
  parts.tokens = {"<|end|>", "<user>", "a", "b", "1", "2", "\u0120", "ab", "12", "\u0120ab"};
  parts.types = {3, 4, 1, 1, 1, 1, 1, 1, 1, 1};
  parts.merges = {"a b", "1 2"};   // no merge makes the last token
  parts.bos = 0, parts.eos = 0;
  return parts;
}

TEST(GgufFiles, PreTokenizersByName) {
  const std::string text = "ab 12ab ab<user>";
  const auto ids = [&](const std::string& pre) {
    return load_files(tokenizer_files_from_gguf(byte_level_parts(pre), 10, 64))->encode(text);
  };
  EXPECT_EQ(ids("smollm"), (Ids{7, 6, 4, 5, 7, 6, 7, 1}));    // digits one by one
  EXPECT_EQ(ids("gpt-2"), (Ids{7, 6, 8, 7, 6, 7, 1}));
  EXPECT_EQ(ids("llama-bpe"), (Ids{7, 6, 8, 7, 9, 1}));       // ignore_merges: a word that is a token
  EXPECT_EQ(error_of([&] { ids("qwen2"); }),
            "pre-tokenizer qwen2 is not supported, only smollm, llama-bpe, gpt-2 (tokenizer.ggml.pre); give a GGUF file with an intact "
            "tokenizer");
}

TEST(GgufFiles, PolicyAndTemplateAreKept) {
  TokenizerParts parts = byte_level_parts("smollm");
  parts.chat_template = "{{ \"x\" }}\n";
  parts.add_bos = true;
  const auto files = tokenizer_files_from_gguf(parts, 10, 64);
  ASSERT_EQ(files.size(), 2u);
  const JsonValue config = parse_json(files[1].bytes, "c");
  EXPECT_EQ(*config.find("chat_template")->string(), parts.chat_template);
  EXPECT_EQ(*config.find("bos_token")->string(), "<|end|>");
  EXPECT_EQ(config.find("model_max_length")->unsigned_integer(), 64u);
  EXPECT_TRUE(load_files(files)->adds_bos());
  EXPECT_TRUE(load_files(files, "tokenizer_config.json")->adds_bos());   // the post-processor says the same
  parts.add_bos = false;
  EXPECT_FALSE(load_files(tokenizer_files_from_gguf(parts, 10, 64))->adds_bos());
  EXPECT_EQ(load_files(files)->eos(), 0);
  EXPECT_EQ(load_files(files)->encode("<|end|>", {.parse_special = true}), (Ids{0}));
}

TEST(GgufFiles, BothSentencepieceFilesEncodeAlike) {
  for (const bool prefix : {true, false}) {
    SmallModel model({"▁", "a", "b", "c", "▁a", "ab", "bc", "▁ab", "abc", "ca", "aa", "▁▁", "▁▁▁▁", "bca", "é"}, prefix);
    TokenizerParts parts = model.parts();
    parts.add_space_prefix = prefix;
    const auto files = tokenizer_files_from_gguf(parts, static_cast<int64_t>(parts.tokens.size()), 64);
    ASSERT_EQ(files.size(), 3u);
    EXPECT_EQ(files[1].bytes, model.bytes());   // lossless
    const auto json = load_files(files), proto = load_files(files, "tokenizer.json");
    EXPECT_TRUE(json->adds_bos() && proto->adds_bos());
    std::mt19937 random(13);
    const std::vector<std::string> bits{"a", "b", "c", " ", "    ", "é", "x", "\n", "<s>", "</s>", "ab"};
    for (int i = 0; i < 2000; ++i) {
      std::string text;
      for (size_t n = random() % 20; n > 0; --n) text += bits[random() % bits.size()];
      const EncodeOptions options{.add_bos = i % 3 == 0, .parse_special = i % 2 == 0};
      ASSERT_EQ(json->encode(text, options), proto->encode(text, options)) << escape(text);
    }
  }
}

TEST(GgufFiles, RefusesPartsThatDoNotFit) {
  const auto error = [](auto&& change, int64_t rows = 10) {
    TokenizerParts parts = byte_level_parts("gpt-2");
    change(parts);
    return error_of([&] { tokenizer_files_from_gguf(parts, rows, 64); });
  };
  const auto contains = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_PRED2(contains, error([](auto&) {}, 11), "10 tokens, but the embedding has 11 rows (tokenizer.ggml.tokens)");
  EXPECT_PRED2(contains, error([](auto& p) { p.tokens.clear(); }), "0 tokens");
  EXPECT_PRED2(contains, error([](auto& p) { p.types.pop_back(); }), "9 types for 10 tokens (tokenizer.ggml.token_type)");
  EXPECT_PRED2(contains, error([](auto& p) { p.types[3] = 7; }), "token 3 has type 7");
  EXPECT_PRED2(contains, error([](auto& p) { p.tokens[3] = "\xFF"; }), "token 3 is empty or not UTF-8");
  EXPECT_PRED2(contains, error([](auto& p) { p.eos = 10; }), "token 10 does not exist (tokenizer.ggml.eos_token_id)");
  EXPECT_PRED2(contains, error([](auto& p) { p.merges[1] = "ab"; }), "merge 1 is not two tokens (tokenizer.ggml.merges)");
  EXPECT_PRED2(contains, error([](auto& p) { p.model = "bert"; }), "tokenizer model bert is not supported");
  EXPECT_PRED2(contains, error([](auto& p) { p.model = "llama"; }), "0 scores for 10 tokens (tokenizer.ggml.scores)");
}

}  // namespace
}  // namespace longlora
