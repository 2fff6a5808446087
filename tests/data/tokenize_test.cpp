#include "longlora/data/tokenize.h"

#include <gtest/gtest.h>

#include <random>

#include "data/fake_tokenizer.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/formats/token_file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

TokenizeOptions options_for(const Tokenizer& tokenizer) {
  TokenizeOptions options;
  options.tokenizer = &tokenizer;
  return options;
}

TEST(Tokenize, DocumentsAreBosTextEos) {
  TempDir dir;
  const std::vector<fs::path> inputs = {dir.write("a.txt", "one"),
                                        dir.write("b.jsonl", "{\"text\":\"two\"}\n{\"text\":\"\"}\n{\"text\":\"3\"}")};
  for (const bool bos : {false, true}) {
    const FakeTokenizer tokenizer(bos);
    const fs::path output = dir / (bos ? "bos.tokens" : "plain.tokens");
    const TokenizeResult result = tokenize_files(inputs, output, options_for(tokenizer));
    const auto source = open_token_file(output);
    EXPECT_EQ(all_ids(*source), documents_of({"one", "two", "3"}, bos));
    EXPECT_EQ(result.documents, 3u);
    EXPECT_EQ(result.tokens, source->num_tokens());
    EXPECT_EQ(result.empty, 1u);
    EXPECT_EQ(source->tokenizer_digest(), tokenizer.digest());
    EXPECT_EQ(source->vocab_size(), 259u);
    const JsonValue metadata = parse_json(source->metadata_json(), "metadata");
    EXPECT_EQ(metadata.find("counts")->find("targets")->unsigned_integer(), source->num_tokens() - 3);
    EXPECT_EQ(metadata.find("counts")->find("empty")->unsigned_integer(), 1u);
    EXPECT_EQ(*metadata.find("sources")->array()->at(0).find("sha256")->string(), to_hex(sha256("one")));
    EXPECT_EQ(metadata.find("longest_document")->unsigned_integer(), bos ? 5u : 4u);
  }
}

TEST(Tokenize, ForgedSpecialTokensStayTextUnlessAskedFor) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  const std::vector<fs::path> inputs = {dir.write("a.txt", "x<special>")};
  TokenizeOptions options = options_for(tokenizer);
  tokenize_files(inputs, dir / "plain.tokens", options);
  EXPECT_EQ(all_ids(*open_token_file(dir / "plain.tokens")), documents_of({"x<special>"}));
  options.parse_special = true;
  tokenize_files(inputs, dir / "parsed.tokens", options);
  EXPECT_EQ(all_ids(*open_token_file(dir / "parsed.tokens")), (std::vector<int32_t>{'x', FakeTokenizer::kSpecial, FakeTokenizer::kEos}));
}

TEST(Tokenize, EosIsTheTokenizersUnlessGiven) {
  TempDir dir;
  FakeTokenizer tokenizer;
  const std::vector<fs::path> inputs = {dir.write("a.txt", "x")};
  TokenizeOptions options = options_for(tokenizer);
  options.eos = 7;
  tokenize_files(inputs, dir / "x.tokens", options);
  EXPECT_EQ(all_ids(*open_token_file(dir / "x.tokens")), (std::vector<int32_t>{'x', 7}));
  options.eos = 259;
  EXPECT_EQ(error_of([&] { tokenize_files(inputs, dir / "y.tokens", options); }),
            "end-of-text id 259 is outside the vocabulary of 259 (data.eos); set data.eos to an id of the tokenizer");
  tokenizer.has_eos = false;
  options.eos.reset();
  EXPECT_EQ(kind_of([&] { tokenize_files(inputs, dir / "y.tokens", options); }), ErrorKind::config);
}

/// Many files and records, several pieces of 1 MiB.
std::vector<fs::path> random_corpus(const TempDir& dir) {
  std::mt19937 random(23);
  std::vector<fs::path> inputs;
  for (int f = 0; f < 4; ++f) {
    std::string content;
    while (content.size() < 1'500'000)
      content += "{\"text\":\"" + std::string(random() % 9000, static_cast<char>('a' + random() % 26)) + "\"}\n";
    inputs.push_back(dir.write("in/" + std::to_string(f) + ".jsonl", content));
  }
  inputs.push_back(dir.write("in/z.txt", std::string(1'200'000, 'z')));
  return inputs;
}

TEST(Tokenize, BytesDoNotDependOnThreads) {
  TempDir dir;
  const auto inputs = random_corpus(dir);
  const FakeTokenizer tokenizer;
  std::string expected;
  for (const int threads : {1, 2, 3, 8}) {
    TokenizeOptions options = options_for(tokenizer);
    options.threads = threads;
    const std::string name = std::to_string(threads) + ".tokens";
    tokenize_files(inputs, dir / name, options);
    if (threads == 1) expected = dir.read(name);
    EXPECT_TRUE(dir.read(name) == expected) << threads << " threads";
  }
  EXPECT_GT(expected.size(), 10'000'000u);
}

TEST(Tokenize, TheFirstFaultInInputOrderIsReportedForEveryThreadCount) {
  TempDir dir;
  auto inputs = random_corpus(dir);
  std::string content = dir.read("in/2.jsonl");
  content[content.find('\n', 900'000) + 1] = '!';
  const fs::path bad = dir.write("in/2.jsonl", content);
  dir.write("in/3.jsonl", "!");
  const FakeTokenizer tokenizer;
  for (const int threads : {1, 2, 8}) {
    TokenizeOptions options = options_for(tokenizer);
    options.threads = threads;
    const auto error = thrown_by([&] { tokenize_files(inputs, dir / "x.tokens", options); });
    ASSERT_TRUE(error);
    EXPECT_TRUE(error->where.starts_with(bad.string() + ":")) << error->where;
    EXPECT_TRUE(error->where.ends_with(":1")) << error->where;
    EXPECT_FALSE(fs::exists(dir / "x.tokens"));
  }
}

TEST(Tokenize, AnExistingOutputIsKeptRefusedOrReplaced) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  const std::vector<fs::path> inputs = {dir.write("a.txt", "one")};
  const fs::path output = dir / "x.tokens";
  TokenizeOptions options = options_for(tokenizer);
  EXPECT_FALSE(tokenize_files(inputs, output, options).up_to_date);
  const int encoded = tokenizer.num_encoded;
  const TokenizeResult again = tokenize_files(inputs, output, options);
  EXPECT_TRUE(again.up_to_date);
  EXPECT_EQ(again.tokens, 4u);
  EXPECT_EQ(tokenizer.num_encoded, encoded);
  dir.write("a.txt", "two!");
  EXPECT_EQ(error_of([&] { tokenize_files(inputs, output, options); }), "the output exists and was made from other inputs or rules (" +
                                                                            output.string() +
                                                                            "); choose another --output, or replace it with --force");
  EXPECT_EQ(kind_of([&] { tokenize_files(inputs, output, options); }), ErrorKind::busy);
  options.force = true;
  EXPECT_FALSE(tokenize_files(inputs, output, options).up_to_date);
  EXPECT_EQ(all_ids(*open_token_file(output)), documents_of({"two!"}));
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(dir.path())) left.push_back(entry.path().filename().string());
  EXPECT_EQ(left.size(), 2u) << "only input and output stay";
}

TEST(Tokenize, KeyDependsOnContentAndRulesNotOnPaths) {
  TempDir dir;
  const FakeTokenizer tokenizer, other(false, 259, "other");
  const auto key = [&](const char* name, const TokenizeOptions& options) { return tokenize_key({identify(dir / name)}, options); };
  dir.write("a.txt", "one");
  dir.write("b.txt", "one");
  dir.write("c.txt", "two");
  dir.write("d.jsonl", "one");
  const TokenizeOptions base = options_for(tokenizer);
  EXPECT_EQ(key("a.txt", base), key("b.txt", base));
  TokenizeOptions changed = base;
  changed.threads = 7;
  changed.force = true;
  EXPECT_EQ(key("a.txt", base), key("a.txt", changed));
  std::vector<Digest> keys = {key("a.txt", base), key("c.txt", base), key("d.jsonl", base), key("a.txt", options_for(other))};
  const auto with = [&](auto change) {
    TokenizeOptions options = base;
    change(options);
    keys.push_back(key("a.txt", options));
  };
  with([](auto& o) { o.eos = 5; });
  with([](auto& o) { o.split = "blank_line"; });
  with([](auto& o) { o.split = "separator"; o.separator = "--"; });
  with([](auto& o) { o.field = "body"; });
  with([](auto& o) { o.parse_special = true; });
  for (size_t i = 0; i < keys.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_NE(keys[i], keys[j]) << i << " " << j;
}

/// Three inputs of more than 16 MiB in all make two parts.
TEST(Tokenize, AKilledCallGoesOnWhereItStopped) {
  TempDir dir;
  const std::vector<fs::path> inputs = {dir.write("a.txt", std::string(9 << 20, 'a')), dir.write("b.txt", std::string(9 << 20, 'b')),
                                        dir.write("c.jsonl", "{\"text\":\"good\"}\n{\"text\":0}")};
  const FakeTokenizer tokenizer;
  const TokenizeOptions options = options_for(tokenizer);
  EXPECT_EQ(kind_of([&] { tokenize_files(inputs, dir / "x.tokens", options); }), ErrorKind::data);
  EXPECT_TRUE(fs::exists(dir / "x.tokens.parts"));
  EXPECT_FALSE(fs::exists(dir / "x.tokens"));
  dir.write("c.jsonl", "{\"text\":\"good\"}");
  dir.write("x.tokens.tmp-0123456789abcdef", "left by a killed call");
  const int encoded = tokenizer.num_encoded;
  const TokenizeResult result = tokenize_files(inputs, dir / "x.tokens", options);
  EXPECT_EQ(result.reused_parts, 1u);
  EXPECT_EQ(tokenizer.num_encoded, encoded + 1);
  EXPECT_FALSE(fs::exists(dir / "x.tokens.parts"));
  EXPECT_FALSE(fs::exists(dir / "x.tokens.tmp-0123456789abcdef"));
  tokenize_files(inputs, dir / "fresh.tokens", options);
  EXPECT_TRUE(dir.read("x.tokens") == dir.read("fresh.tokens")) << "a continued call must write the same bytes";
}

TEST(Tokenize, ProgressReachesTheEnd) {
  TempDir dir;
  const auto inputs = random_corpus(dir);
  const FakeTokenizer tokenizer;
  TokenizeOptions options = options_for(tokenizer);
  std::vector<TokenizeProgress> seen;
  options.progress = [&](const TokenizeProgress& p) { seen.push_back(p); };
  const TokenizeResult result = tokenize_files(inputs, dir / "x.tokens", options);
  ASSERT_GT(seen.size(), 5u);
  for (size_t i = 1; i < seen.size(); ++i) EXPECT_GE(seen[i].bytes_done, seen[i - 1].bytes_done);
  EXPECT_EQ(seen.back().bytes_done, seen.back().bytes_total);
  EXPECT_EQ(seen.back().documents, result.documents);
  EXPECT_EQ(seen.back().tokens, result.tokens);
}

TEST(Tokenize, WhatItCannotDoIsRefusedByName) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  const auto error = [&](auto change, const char* input = "a.txt") {
    TokenizeOptions options = options_for(tokenizer);
    change(options);
    return error_of([&] { tokenize_files({dir.write(input, "x")}, dir / "x.tokens", options); });
  };
  EXPECT_EQ(error([](auto& o) { o.template_name = "llama2"; }),
            "template 'llama2' is not in this version (data.template); use none (documents)");
  EXPECT_EQ(error([](auto& o) { o.split = "line"; }), "split 'line' is unknown (split); use file, blank_line or separator");
  EXPECT_EQ(error([](auto& o) { o.split = "separator"; }),
            "split: separator needs `separator`, one line of text (separator); give the literal line that stands between documents");
  EXPECT_EQ(
      error([](auto& o) { o.tokenizer = nullptr; }),
      "text needs a tokenizer, and the model folder has none (model.path); add tokenizer.json or tokenizer.model, or give token files");
  EXPECT_EQ(error([](auto& o) { o.format = "raw_uint16"; }),
            "holds token ids already (raw_uint16) (" + (dir / "a.txt").string() + "); give it to `data.train` as it is");
  EXPECT_EQ(kind_of([&] { tokenize_files({dir.write("e.txt", "")}, dir / "x.tokens", options_for(tokenizer)); }), ErrorKind::data)
      << "no document";
  EXPECT_FALSE(fs::exists(dir / "x.tokens"));
}

TEST(Tokenize, AnIdOutsideTheVocabularyNamesFileDocumentAndPosition) {
  TempDir dir;
  const FakeTokenizer small(false, 100);       // 'z' is 122
  TokenizeOptions options = options_for(small);
  options.eos = 0;
  const fs::path input = dir.write("a.jsonl", "{\"text\":\"ABC\"}\n{\"text\":\"ABz\"}");
  EXPECT_EQ(error_of([&] { tokenize_files({input}, dir / "x.tokens", options); }),
            "token id 122 is outside the tokenizer's vocabulary of 100 (" + input.string() +
                ": document 1, position 2); the tokenizer files of the model do not fit together");
}

}  // namespace
}  // namespace longlora
