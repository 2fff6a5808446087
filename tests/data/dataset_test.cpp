#include "longlora/data/dataset.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "data/fake_tokenizer.h"
#include "data/joined_source.h"
#include "longlora/core/files.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

std::string raw16(const std::vector<uint16_t>& ids) { return {reinterpret_cast<const char*>(ids.data()), ids.size() * 2}; }

std::string counting16(int n) {
  std::vector<uint16_t> ids(n);
  for (int i = 0; i < n; ++i) ids[i] = static_cast<uint16_t>(i);
  return raw16(ids);
}

DatasetOptions options_for(const Tokenizer* tokenizer, int64_t sequence_length, int64_t vocab_size = 259) {
  DatasetOptions options;
  options.sequence_length = sequence_length;
  options.vocab_size = vocab_size;
  options.tokenizer = tokenizer;
  return options;
}

DataEntry entry(const fs::path& path, const std::string& format = "auto") {
  DataEntry e;
  e.path = path.string();
  e.format = format;
  return e;
}

TokenBatch row_of(const Dataset& dataset, uint64_t source, uint64_t row) {
  TokenBatch batch;
  dataset.append_row(source, row, batch);
  return batch;
}

TEST(Dataset, RowsOfCountingTokensAreCheckedInTheHead) {
  TempDir dir;
  const Dataset dataset({entry(dir.write("x.bin", counting16(100)), "raw_uint16")}, options_for(nullptr, 16, 1000));
  ASSERT_EQ(dataset.num_sources(), 1u);
  ASSERT_EQ(dataset.rows(0), 7u);
  TokenBatch batch;
  for (uint64_t r = 0; r < 7; ++r) dataset.append_row(0, r, batch);
  EXPECT_EQ(batch.rows, 7);
  EXPECT_EQ(batch.tokens, 16);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(batch.ids[i], i);
  EXPECT_EQ(batch.padding, 12);
  EXPECT_EQ(batch.targets, 6 * 15 + 3);
  EXPECT_EQ(batch.labels[14], 15);
  EXPECT_EQ(batch.labels[15], TokenBatch::kIgnored);
  EXPECT_EQ(batch.labels[99], TokenBatch::kIgnored);
  EXPECT_EQ(batch.document_starts[0], (std::vector<int64_t>{0}));
  EXPECT_EQ(batch.document_starts[6], (std::vector<int64_t>{0, 4}));
}

TEST(Dataset, FilesOfAnEntryFormOneStream) {
  TempDir dir;
  dir.write("in/1.txt", "abcd");
  dir.write("in/2.jsonl", "{\"text\":\"ef\"}");
  dir.write("in/3.txt", "ghi");
  const FakeTokenizer tokenizer;
  const Dataset dataset({entry(dir / "in")}, options_for(&tokenizer, 7));
  EXPECT_EQ(all_ids(dataset.tokens(0)), documents_of({"abcd", "ef", "ghi"}));
  ASSERT_EQ(dataset.rows(0), 2u);
  const TokenBatch last = row_of(dataset, 0, 1);
  EXPECT_EQ(last.ids, (std::vector<int32_t>{257, 'g', 'h', 'i', 257, 257, 257}));
  EXPECT_EQ(last.labels, (std::vector<int32_t>{-100, 'h', 'i', 257, -100, -100, -100}));
  EXPECT_EQ(last.document_starts[0], (std::vector<int64_t>{0, 1, 5}));
  EXPECT_EQ(dataset.summary().at(0),
            dir.path().string() + "/in: 3 files (text+jsonl), 3 documents, 12 tokens, 2 rows of 7, 2 tokens of padding, tokenised now");
}

TEST(Dataset, TextAndTokenFilesMixInPathOrder) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  TokenFileWriter writer(dir / "2.tokens", 259, tokenizer.digest(), {}, false);
  writer.add_document(std::vector<int32_t>{1, 2, 3});
  writer.finish("{}");
  dir.write("1.txt", "a");
  dir.write("3.txt", "b");
  const Dataset dataset({entry(dir / "*.t*")}, options_for(&tokenizer, 4));
  EXPECT_EQ(all_ids(dataset.tokens(0)), (std::vector<int32_t>{'a', 257, 1, 2, 3, 'b', 257}));
  EXPECT_EQ(dataset.identities().size(), 3u);
}

TEST(Dataset, TokenisedTextIsCachedAndADamagedCacheIsMadeAgain) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  DatasetOptions options = options_for(&tokenizer, 4);
  options.cache_folder = dir / "cache";
  const std::vector<DataEntry> entries = {entry(dir.write("a.txt", "some text"))};
  const Dataset first(entries, options);
  const int encoded = tokenizer.num_encoded;
  const Dataset second(entries, options);
  EXPECT_EQ(tokenizer.num_encoded, encoded);
  EXPECT_EQ(second.digest(), first.digest());
  std::vector<fs::path> files;
  for (const auto& e : fs::directory_iterator(dir / "cache")) files.push_back(e.path());
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].extension(), ".tokens");
  EXPECT_EQ(files[0].stem().string().size(), 64u);
  fs::resize_file(files[0], 300);
  const Dataset third(entries, options);
  EXPECT_GT(tokenizer.num_encoded, encoded);
  EXPECT_EQ(third.digest(), first.digest());
  EXPECT_EQ(all_ids(third.tokens(0)), documents_of({"some text"}));
}

TEST(Dataset, WithoutACacheFolderNothingStays) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  fs::path used;
  {
    const Dataset dataset({entry(dir.write("a.txt", "text"))}, options_for(&tokenizer, 4));
    used = static_cast<const JoinedSource&>(dataset.tokens(0)).path();
    EXPECT_TRUE(fs::exists(used));
  }
  EXPECT_FALSE(fs::exists(used.parent_path()));
}

TEST(Dataset, DigestFollowsContentAndPacking) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  const auto digest = [&](const char* name, auto change) {
    DatasetOptions options = options_for(&tokenizer, 4);
    std::vector<DataEntry> entries = {entry(dir / name)};
    change(options, entries);
    return Dataset(entries, options).digest();
  };
  dir.write("a.txt", "one two");
  dir.write("same.txt", "one two");
  dir.write("b.txt", "one twO");
  const auto nothing = [](auto&, auto&) {};
  const Digest base = digest("a.txt", nothing);
  EXPECT_EQ(digest("same.txt", nothing), base);
  EXPECT_NE(digest("b.txt", nothing), base);
  EXPECT_NE(digest("a.txt", [](auto& o, auto&) { o.sequence_length = 5; }), base);
  EXPECT_NE(digest("a.txt", [](auto& o, auto&) { o.eos = 3; }), base);
  EXPECT_NE(digest("a.txt", [](auto& o, auto&) { o.data.document_mask = true; }), base);
  EXPECT_NE(digest("a.txt", [](auto&, auto& e) { e[0].weight = 2; }), base);
  EXPECT_NE(digest("a.txt", [](auto&, auto& e) { e.push_back(e[0]); }), base);
}

TEST(Dataset, IdsOutsideTheVocabularyNameFileDocumentAndPosition) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  std::mt19937 random(3);
  for (int trial = 0; trial < 50; ++trial) {
    TokenFileWriter writer(dir / "x.tokens", 259, tokenizer.digest(), {}, false);
    writer.replace = true;
    const uint64_t bad_document = random() % 20, bad_position = random() % 5;
    for (uint64_t d = 0; d < 20; ++d) {
      std::vector<int32_t> ids(5 + random() % 9, 1);
      if (d == bad_document) ids[bad_position] = 200;
      writer.add_document(ids);
    }
    writer.finish("{}");
    EXPECT_EQ(error_of([&] { Dataset({entry(dir / "x.tokens")}, options_for(&tokenizer, 16, 200)); }),
              "end-of-text id 257 is outside the model's vocabulary of 200 (data.eos); set data.eos to an id of the model");
    DatasetOptions options = options_for(&tokenizer, 16, 200);
    options.eos = 0;
    EXPECT_EQ(error_of([&] { Dataset({entry(dir / "x.tokens")}, options); }),
              "token id 200 is outside the model's vocabulary of 200 (" + (dir / "x.tokens").string() + ": document " +
                  std::to_string(bad_document) + ", position " + std::to_string(bad_position) +
                  "); use data that was tokenised with this model's tokenizer");
  }
}

TEST(Dataset, AFileRewrittenWhileInUseIsFoundInTheBatch) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", counting16(100));
  const Dataset dataset({entry(path, "raw_uint16")}, options_for(nullptr, 16, 1000));
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).seekp(50 * 2).write("\xFF\xFF", 2);
  row_of(dataset, 0, 2);
  EXPECT_EQ(error_of([&] { row_of(dataset, 0, 3); }),
            "token id 65535 is outside the model's vocabulary of 1000 (" + path.string() +
                ": document 0, position 50); the file changed while it was read; start again with whole files");
  fs::resize_file(path, 60);
  EXPECT_EQ(kind_of([&] { row_of(dataset, 0, 2); }), ErrorKind::data);
}

TEST(Dataset, TokensOfAnotherTokenizerAreRefused) {
  TempDir dir;
  const FakeTokenizer tokenizer, other(false, 259, "other");
  TokenFileWriter writer(dir / "x.tokens", 259, other.digest(), {}, false);
  writer.add_document(std::vector<int32_t>{1, 2, 3});
  writer.finish("{}");
  const auto error = thrown_by([&] { Dataset({entry(dir / "x.tokens")}, options_for(&tokenizer, 2)); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::config);
  EXPECT_NE(error->what_happened.find("made with tokenizer " + to_hex(other.digest()).substr(0, 12)), std::string::npos);
  EXPECT_EQ(kind_of([&] { Dataset({entry(dir / "x.tokens")}, options_for(nullptr, 2, 258)); }), ErrorKind::config)
      << "no tokenizer: vocabularies are compared";
  EXPECT_EQ(Dataset({entry(dir / "x.tokens")}, options_for(nullptr, 2, 259)).rows(0), 1u);
}

TEST(Dataset, Uint16CannotHoldALargeVocabulary) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", counting16(10));
  EXPECT_EQ(error_of([&] { Dataset({entry(path, "raw_uint16")}, options_for(nullptr, 4, 65537)); }),
            "uint16 cannot hold this vocabulary of 65537 (" + path.string() + "); use a token file (`longlora-train tokenize`)");
}

TEST(Dataset, RowsWithoutTargetsAreLeftOutUpToOnePercent) {
  TempDir dir;
  const FakeTokenizer tokenizer;
  const auto write = [&](int good, int empty) {
    TokenFileWriter writer(dir / "x.tokens", 259, tokenizer.digest(), {}, false);
    writer.replace = true;
    for (int i = 0; i < good; ++i) writer.add_document(std::vector<int32_t>{1, 2});
    for (int i = 0; i < 2 * empty; ++i) writer.add_document(std::vector<int32_t>{3});
    writer.finish("{}");
    return entry(dir / "x.tokens");
  };
  EXPECT_EQ(Dataset({write(198, 2)}, options_for(&tokenizer, 2)).rows(0), 198u);
  const Dataset one({write(5, 1)}, options_for(&tokenizer, 2));
  EXPECT_EQ(one.rows(0), 5u);
  EXPECT_NE(one.summary().at(0).find("1 rows without targets left out"), std::string::npos);
  const DataEntry bad = write(100, 7);
  const auto error = thrown_by([&] { Dataset({bad}, options_for(&tokenizer, 2)); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->what_happened, "7 of 107 rows have no token to predict (at most 1 % may)");
  ASSERT_EQ(error->details.size(), 5u);
  EXPECT_EQ(error->details[0], bad.path + ": document 100, position 0");
  const DataEntry nothing = write(0, 1);
  EXPECT_EQ(kind_of([&] { Dataset({nothing}, options_for(&tokenizer, 2)); }), ErrorKind::data) << "nothing left";
}

TEST(Dataset, WhatThisVersionCannotDoIsRefusedByName) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", counting16(10));
  const auto error = [&](auto change) {
    DatasetOptions options = options_for(nullptr, 4, 100);
    change(options.data);
    return thrown_by([&] { Dataset({entry(path, "raw_uint16")}, options); });
  };
  const auto expect = [&](auto change, const std::string& what, const std::string& key) {
    const auto e = error(change);
    ASSERT_TRUE(e) << key;
    EXPECT_EQ(e->kind, ErrorKind::config);
    EXPECT_EQ(e->what_happened, what + " is not in this version");
    EXPECT_EQ(e->where, key);
  };
  expect([](auto& d) { d.packing = PackingKind::pad; }, "packing 'pad'", "data.packing");
  expect([](auto& d) { d.packing = PackingKind::pack; }, "packing 'pack'", "data.packing");
  expect([](auto& d) { d.template_name = "chatml"; }, "template 'chatml'", "data.template");
  expect([](auto& d) { d.system_prompt = "x"; }, "a system prompt", "data.system_prompt");
  expect([](auto& d) { d.on_bad_row = BadRowAction::skip; }, "skipping bad records", "data.on_bad_row");
  expect([](auto& d) { d.allow_append = true; }, "data that grew since the checkpoint", "data.allow_append");
}

TEST(Dataset, WeightsAreForAllEntriesOrNone) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", counting16(10));
  DataEntry weighted = entry(path, "raw_uint16"), plain = weighted;
  weighted.weight = 2;
  EXPECT_EQ(error_of([&] { Dataset({weighted, plain}, options_for(nullptr, 4, 100)); }),
            "1 of 2 entries have a weight (data.train); give all entries a weight, or none");
  EXPECT_EQ(Dataset({weighted, weighted}, options_for(nullptr, 4, 100)).weights(), (std::vector<double>{2, 2}));
  EXPECT_TRUE(Dataset({plain}, options_for(nullptr, 4, 100)).weights().empty());
}

}  // namespace
}  // namespace longlora
