// Whole steps on several ranks: one hash chain, whatever the number of ranks and wherever state lies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>

#include "longlora/checkpoint/train_state.h"
#include "longlora/train/environment.h"
#include "longlora/train/evaluation.h"
#include "longlora/train/trainer.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"
#include "train/tiny_training.h"

namespace longlora {
namespace {

/// One rank's parts, in a thread of its own.
struct Rank : TinyTraining {
  Rank(dist::Communicator& ranks, const std::string& mode, int64_t rows, bool shard_state, ComputeType compute = ComputeType::fp32) {
    at::set_num_threads(1);
    prepare(mode, compute, ranks, rows, shard_state);
  }
};

std::string chain_after(int steps, int size, int64_t rows, const std::string& mode, bool shard_state,
                        ComputeType compute = ComputeType::fp32) {
  std::vector<std::string> chains(static_cast<size_t>(size));
  test::run_ranks(size, [&](dist::Communicator& ranks) {
    Rank rank(ranks, mode, rows, shard_state, compute);
    Trainer trainer = rank.trainer();
    StepReport report;
    for (int i = 0; i < steps; ++i) report = trainer.step();
    chains[static_cast<size_t>(ranks.rank())] = report.hash;
  });
  EXPECT_EQ(std::set<std::string>(chains.begin(), chains.end()).size(), 1u) << size << " ranks";
  return chains.front();
}

TEST(Ranks, EveryNumberOfRanksAndEveryPlaceOfStateGivesOneHashChain) {
  for (const char* mode : {"lora", "full"}) {
    for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
      const std::string alone = chain_after(4, 1, 8, mode, false, compute);
      for (const int size : {2, 4, 8})
        for (const bool shard_state : {false, true})
          EXPECT_EQ(chain_after(4, size, 8, mode, shard_state, compute), alone)
              << mode << " " << name_of(compute) << " " << size << " ranks, sharded " << shard_state;
      const std::string six = chain_after(3, 1, 6, mode, false, compute);
      for (const int size : {2, 3, 6})
        EXPECT_EQ(chain_after(3, size, 6, mode, true, compute), six) << mode << " " << name_of(compute) << " " << size << " ranks";
    }
  }
}

/// A walk over numbers of ranks with a checkpoint between: the chain is that of one rank without interruption.
TEST(Ranks, ACheckpointOfAnyNumberOfRanksGoesOnWithAnyOther) {
  const std::string uninterrupted = chain_after(8, 1, 4, "lora", false);
  TempDir dir;
  CheckpointFolder folder(dir / "checkpoints");
  std::string chain;
  Progress progress;
  for (const int size : {4, 2, 1, 4}) {
    const auto found = folder.choose();
    Progress next;
    test::run_ranks(size, [&](dist::Communicator& ranks) {
      Rank rank(ranks, "lora", 4, size != 2);
      Progress start = progress;
      if (found) {
        load_train_tensors(*found, *rank.model);
        rank.reducer->refresh_weights();
      }
      Trainer trainer({*rank.model, *rank.loader, *rank.optimizer, *rank.reducer, ranks, rank.loaded.config, rank.plan, {}}, start);
      trainer.step();
      trainer.step();
      const TrainState state{.step = trainer.progress().step, .chain = digest_hex(trainer.progress().chain)};
      if (ranks.rank() == 0) {
        save_train_state(folder, *rank.model, state, rank.reducer.get());
        next = trainer.progress();
        chain = state.chain;
      } else {
        give_train_state(*rank.model, *rank.reducer);
      }
    });
    progress = next;
  }
  EXPECT_EQ(chain, uninterrupted);
}

TEST(Ranks, ARootThatCannotSaveLeavesNobodyWaiting) {
  test::run_ranks(4, [](dist::Communicator& ranks) {
    Rank rank(ranks, "lora", 4, true);
    Trainer trainer = rank.trainer();
    trainer.step();
    if (ranks.rank() == 0) {
      CheckpointFolder folder(rank.tiny.dir / "checkpoints");
      std::filesystem::permissions(rank.tiny.dir / "checkpoints", std::filesystem::perms::none);
      std::filesystem::remove_all(rank.tiny.dir / "checkpoints");
      EXPECT_TRUE(thrown_by([&] { save_train_state(folder, *rank.model, {.step = 1, .chain = "x"}, rank.reducer.get()); }));
    } else {
      give_train_state(*rank.model, *rank.reducer);
    }
    trainer.step();  // and training goes on
  });
}

TEST(Ranks, OneWithoutMemoryForItsRowsEndsAllForThatReason) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer ends the program where memory cannot be had";
#endif
  std::atomic<int> ended{0};
  test::run_ranks(2, [&](dist::Communicator& ranks) {
    std::unique_ptr<Dataset> endless;
    Rank rank(ranks, "lora", 2, true);
    if (ranks.rank() == 1) {  // a row of more bytes than there are addresses
      DatasetOptions options{.sequence_length = int64_t{1} << 46, .vocab_size = kTinyVocab, .data = rank.loaded.config.data};
      endless = std::make_unique<Dataset>(rank.loaded.config.data.train, options);
      rank.loader = std::make_unique<BatchLoader>(*endless, Sampler({.rows = {1}}), 2, 1, 1, 1, 0);
    }
    Trainer trainer = rank.trainer();
    try {
      trainer.step();
    } catch (const std::exception& error) {
      EXPECT_TRUE(is_out_of_memory(error)) << "rank " << ranks.rank() << ": " << error.what();
      ++ended;
    }
    rank.loader.reset();
  });
  EXPECT_EQ(ended, 2);
}

TEST(Ranks, AStopOnOneRankEndsAllAfterTheSameStep) {
  test::run_ranks(2, [](dist::Communicator& ranks) {
    Rank rank(ranks, "lora", 2, true);
    Trainer trainer = rank.trainer();
    int polls = 0;
    EXPECT_FALSE(trainer.run({}, [&] { return ranks.rank() == 1 && polls++ == 3; }));
    EXPECT_EQ(trainer.progress().step, 3);
  });
}

TEST(Ranks, PerplexityIsOneSumWhateverRankComputedAWindow) {
  std::vector<double> results;
  std::mutex mutex;
  for (const int size : {1, 2, 3, 8}) {
    test::run_ranks(size, [&](dist::Communicator& ranks) {
      Rank rank(ranks, "lora", size, false);
      PerplexityOptions options{.context = 24, .max_tokens = 300};
      options.ranks = &ranks;
      const PerplexityResult result = perplexity(*rank.model, {&rank.data->tokens(0)}, options);
      const std::lock_guard lock(mutex);
      results.push_back(result.nll);
      EXPECT_EQ(result.tokens, 299);
    });
  }
  EXPECT_EQ(std::set<double>(results.begin(), results.end()).size(), 1u);
}

}  // namespace
}  // namespace longlora
