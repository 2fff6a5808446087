// data.md D1: which rows a step holds does not depend on prefetch, shards per rank, threads, or where the run was stopped.
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <set>

#include "data/fake_tokenizer.h"
#include "longlora/core/files.h"
#include "longlora/data/dataset.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

constexpr int64_t kGlobalBatch = 8, kMicroBatch = 2, kShards = kGlobalBatch / kMicroBatch;

void hash_batch(Sha256& hash, const TokenBatch& batch) {
  hash.update_value(batch.rows).update_value(batch.tokens).update_value(batch.targets).update_value(batch.padding);
  hash.update(std::as_bytes(std::span(batch.ids)))
      .update(std::as_bytes(std::span(batch.labels)))
      .update(std::as_bytes(std::span(batch.global_rows)));
  for (const auto& starts : batch.document_starts) hash.update(std::as_bytes(std::span(starts)));
}

class RowStream : public testing::Test {
 protected:
  RowStream() {
    std::mt19937 random(4);
    std::string lines;
    for (int i = 0; i < 300; ++i)
      lines += "{\"text\":\"" + std::string(random() % 60, static_cast<char>('a' + i % 26)) + std::to_string(i) + "\"}\n";
    dir_.write("a.jsonl", lines);
    dir_.write("b.txt", std::string(2000, 'q'));
  }

  std::unique_ptr<Dataset> dataset(int threads = 2) const {
    DatasetOptions options;
    options.sequence_length = 50;
    options.vocab_size = 259;
    options.tokenizer = &tokenizer_;
    options.tokenize_threads = threads;
    DataEntry a, b;
    a.path = (dir_ / "a.jsonl").string();
    b.path = (dir_ / "b.txt").string();
    return std::make_unique<Dataset>(std::vector<DataEntry>{a, b}, options);
  }

  static Sampler sampler(const Dataset& dataset) { return Sampler({.seed = 7, .rows = {dataset.rows(0), dataset.rows(1)}}); }

  /// Digest of steps [0, steps) put together from `ranks` loaders.
  static Digest stream(const Dataset& dataset, int64_t ranks, int64_t prefetch, int steps = 40) {
    std::vector<std::unique_ptr<BatchLoader>> loaders;
    const int64_t per_rank = kShards / ranks;
    for (int64_t r = 0; r < ranks; ++r)
      loaders.push_back(
          std::make_unique<BatchLoader>(dataset, sampler(dataset), kGlobalBatch, kMicroBatch, r * per_rank, per_rank, prefetch));
    Sha256 hash;
    for (int t = 0; t < steps; ++t)
      for (auto& loader : loaders)
        for (const TokenBatch& shard : loader->step(static_cast<uint64_t>(t * kGlobalBatch))) hash_batch(hash, shard);
    return hash.finish();
  }

  TempDir dir_;
  FakeTokenizer tokenizer_;
};

TEST_F(RowStream, IsTheSameForEveryPrefetchRankCountAndThreadCount) {
  const auto data = dataset();
  const Digest expected = stream(*data, 1, 0);
  for (const int64_t prefetch : {0, 1, 2, 3, 5, 8})
    for (const int64_t ranks : {1, 2, 4}) EXPECT_EQ(stream(*data, ranks, prefetch), expected) << prefetch << " " << ranks;
  for (const int threads : {1, 3, 8}) EXPECT_EQ(stream(*dataset(threads), 1, 2), expected) << threads;
}

TEST_F(RowStream, EveryShardHoldsTheRowsOfItsPlace) {
  const auto data = dataset();
  const Sampler rows = sampler(*data);
  BatchLoader loader(*data, rows, kGlobalBatch, kMicroBatch, 1, 2, 2);
  for (uint64_t t = 0; t < 30; ++t) {
    const auto shards = loader.step(t * kGlobalBatch);
    ASSERT_EQ(shards.size(), 2u);
    for (uint64_t j = 0; j < 2; ++j) {
      TokenBatch expected;
      for (uint64_t r = 0; r < kMicroBatch; ++r) {
        const uint64_t g = t * kGlobalBatch + (j + 1) * kMicroBatch + r;
        const RowPlace place = rows.place(g);
        data->append_row(place.source, place.row, expected);
        expected.global_rows.push_back(g);
      }
      EXPECT_EQ(shards[j].ids, expected.ids);
      EXPECT_EQ(shards[j].labels, expected.labels);
      EXPECT_EQ(shards[j].global_rows, expected.global_rows);
      EXPECT_EQ(shards[j].targets, expected.targets);
    }
  }
}

TEST_F(RowStream, StoppedResumedAndSkippedRunsSeeTheSameRows) {
  const auto data = dataset();
  std::vector<Digest> expected;
  {
    BatchLoader loader(*data, sampler(*data), kGlobalBatch, kMicroBatch, 0, kShards, 0);
    for (uint64_t t = 0; t < 60; ++t) {
      Sha256 hash;
      for (const TokenBatch& shard : loader.step(t * kGlobalBatch)) hash_batch(hash, shard);
      expected.push_back(hash.finish());
    }
  }
  std::mt19937 random(9);
  uint64_t position = 0;
  for (int stop = 0; stop < 1000; ++stop) {          // each time a new loader, at the position of the last, or somewhere else
    BatchLoader loader(*data, sampler(*data), kGlobalBatch, kMicroBatch, 0, kShards, random() % 4);
    for (int n = random() % 3; n >= 0; --n) {
      if (random() % 4 == 0) position = random() % 60;
      Sha256 hash;
      for (const TokenBatch& shard : loader.step(position * kGlobalBatch)) hash_batch(hash, shard);
      ASSERT_EQ(hash.finish(), expected[position]);
      position = (position + 1) % 60;
    }
  }
}

TEST_F(RowStream, EveryRowOfAnEpochComesOnce) {
  const auto data = dataset();
  const uint64_t rows = data->rows(0) + data->rows(1);
  BatchLoader loader(*data, sampler(*data), 1, 1, 0, 1, 3);
  std::multiset<std::vector<int32_t>> seen, expected;
  for (uint64_t g = 0; g < rows; ++g) seen.insert(loader.step(g).at(0).ids);
  for (uint64_t source = 0; source < 2; ++source)
    for (uint64_t r = 0; r < data->rows(source); ++r) {
      TokenBatch batch;
      data->append_row(source, r, batch);
      expected.insert(batch.ids);
    }
  EXPECT_EQ(seen, expected);
}

TEST(BatchLoader, AFaultSurfacesInTheStepThatNeedsTheBatchAndAgainWhenAskedAgain) {
  TempDir dir;
  std::vector<uint16_t> ids(64, 1);
  const fs::path path = dir.write("x.bin", {reinterpret_cast<const char*>(ids.data()), 128});
  DatasetOptions options;
  options.sequence_length = 8;
  options.vocab_size = 10;
  DataEntry entry;
  entry.path = path.string();
  entry.format = "raw_uint16";
  const Dataset dataset({entry}, options);
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).seekp(2 * 5 * 8).write("\xFF\xFF", 2);     // row 5
  for (const int64_t prefetch : {0, 1, 2, 8}) {
    BatchLoader loader(dataset, Sampler({.shuffle = false, .rows = {dataset.rows(0)}}), 1, 1, 0, 1, prefetch);
    for (uint64_t g = 0; g < 5; ++g) EXPECT_EQ(loader.step(g).size(), 1u);
    for (int again = 0; again < 2; ++again) EXPECT_EQ(kind_of([&] { loader.step(5); }), ErrorKind::data) << prefetch;
    EXPECT_EQ(loader.step(6).at(0).global_rows.at(0), 6u);
    EXPECT_GE(loader.wait_seconds(), 0.0);
  }
}

TEST(BatchLoader, CanBeDestroyedAtAnyTime) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", std::string(2000, '\1'));
  DatasetOptions options;
  options.sequence_length = 10;
  options.vocab_size = 1000;
  DataEntry entry;
  entry.path = path.string();
  entry.format = "raw_uint16";
  const Dataset dataset({entry}, options);
  for (int i = 0; i < 200; ++i) {
    BatchLoader loader(dataset, Sampler({.rows = {dataset.rows(0)}}), 4, 2, 0, 2, 1 + i % 4);
    for (int t = 0; t < i % 3; ++t) loader.step(static_cast<uint64_t>(4 * t));
  }
}

}  // namespace
}  // namespace longlora
