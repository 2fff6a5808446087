// Plans for one of several ranks: shared frozen weights, masters and moments.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/published_models.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;

constexpr int64_t kCard = 80'000'000'000;  // an 80 GB GPU, all of it

PlanTarget gpu(int64_t bytes) { return {PlanTarget::Device::gpu, 2, bytes}; }

RunPlan on_ranks(int64_t length, int64_t ranks, int64_t shards_a_rank = 1) {
  RunPlan run = one_row(length);
  run.ranks = ranks;
  run.accumulation = shards_a_rank;
  run.canonical_shards = ranks * shards_a_rank;
  return run;
}

TrainConfig with(ShardWeights weights, AutoBool state = AutoBool::automatic) {
  TrainConfig config;
  config.dist.shard_weights = weights;
  config.dist.shard_state = state;
  return config;
}

TrainConfig full_tuning(AutoBool state) {
  TrainConfig config = with(ShardWeights::automatic, state);
  config.tuning.mode = TuningMode::full;
  return config;
}

TEST(RanksPlan, Adapters70BOnEight80GbCardsFitWithSharedWeightsOnly) {
  const RunPlan run = on_ranks(8192, 8);
  EXPECT_EQ(kind_of([&] { make_memory_plan(llama2_70b(), with(ShardWeights::none), run, gpu(kCard)); }), ErrorKind::memory);
  const MemoryPlan plan = make_memory_plan(llama2_70b(), with(ShardWeights::frozen), run, gpu(kCard));
  EXPECT_LE(plan.peak_bytes(), kCard);
  EXPECT_EQ(plan.weight_ranks, 8);
  // 855,638,016 elements a layer: 17.1 GB of parts, 3.4 GB in two gathered layers, 1.05 GB of embedding and head, norms
  const int64_t layer = 2 * 855'638'016, norms = 2 * (2 * 80 + 1) * 8192, embeddings = 2 * 2 * 32000 * 8192;
  EXPECT_EQ(component(plan, "weights"), 80 * layer / 8 + 2 * layer + embeddings + norms);
  EXPECT_EQ(plan.gather_bytes, layer / 8 * 7);
  EXPECT_EQ(plan.layer_forward_flops, 2.0 * 855'638'016 * 8192);
}

TEST(RanksPlan, AutoSharesWeightsOnlyWhereNothingFitsWithout) {
  const auto parts = [](const ModelConfig& model, int64_t ranks, int64_t bytes) {
    return make_memory_plan(model, with(ShardWeights::automatic), on_ranks(8192, ranks), gpu(bytes)).weight_ranks;
  };
  EXPECT_EQ(parts(llama2_70b(), 8, kCard), 8);
  EXPECT_EQ(parts(llama2_7b(), 8, kCard), 1);
  EXPECT_EQ(parts(llama2_7b(), 8, kCard / 8), 8);
  EXPECT_EQ(parts(llama2_70b(), 8, 4 * kCard), 1);
  EXPECT_EQ(make_memory_plan(llama2_7b(), with(ShardWeights::frozen), on_ranks(8192, 1), gpu(kCard)).weight_ranks, 1);
}

TEST(RanksPlan, FullTuning7BOnEight80GbCardsFitsWithSharedState) {
  const RunPlan run = on_ranks(4096, 8);
  EXPECT_EQ(kind_of([&] { make_memory_plan(llama2_7b(), full_tuning(AutoBool::off), run, gpu(kCard)); }), ErrorKind::memory);
  for (const AutoBool state : {AutoBool::automatic, AutoBool::on}) {
    const MemoryPlan plan = make_memory_plan(llama2_7b(), full_tuning(state), run, gpu(kCard));
    EXPECT_LE(plan.peak_bytes(), kCard);
    EXPECT_EQ(plan.weight_ranks, 1);  // nothing is frozen
    EXPECT_EQ(plan.state_ranks, 8);
    const int64_t trained = 6'738'415'616, share = (trained / 8 / 16384 + 1) * 16384;  // whole blocks of the reduction
    EXPECT_EQ(component(plan, "optimizer_and_gradient"), 4 * trained + 12 * share);
  }
}

TEST(RanksPlan, GradientBuffersFollowTheShardsOfARank) {
  const int64_t one = 4 * count_parameters(llama2_7b(), {}).trainable;
  const auto tree = [](int64_t ranks, int64_t shards_a_rank) {
    const RunPlan run = on_ranks(4096, ranks, shards_a_rank);
    return component(make_memory_plan(llama2_7b(), {}, run, gpu(10 * kCard)), "gradient_tree");
  };
  EXPECT_EQ(tree(8, 1), 0);  // besides the gradient itself
  EXPECT_EQ(tree(8, 8), 3 * one);
  EXPECT_EQ(tree(1, 8), 3 * one);
}

TEST(RanksPlan, SequenceRanksShareWeightsButNotState) {
  TrainConfig config = with(ShardWeights::frozen);
  config.dist.sequence_parallel = 4;
  const MemoryPlan plan = make_memory_plan(llama2_70b(), config, on_ranks(8192, 2), gpu(kCard));
  EXPECT_EQ(plan.weight_ranks, 8);
  EXPECT_EQ(plan.state_ranks, 2);
}

TEST(RanksPlan, SequenceRanksAddGradientsInPieces) {
  TrainConfig config;
  const auto exchange = [&](int64_t ranks, const ModelConfig& model = llama2_7b()) {
    config.dist.sequence_parallel = ranks;
    return component(make_memory_plan(model, config, one_row(8192), gpu(10 * kCard)), "exchange");
  };
  EXPECT_EQ(exchange(1), 0);
  EXPECT_EQ(exchange(4), int64_t{32} << 20);  // two pieces of 4 Mi values
  config.tuning.train_norms = config.tuning.train_embeddings = false;
  config.tuning.lora.targets = {LoraTarget::k_proj};
  config.tuning.lora.rank = 1;
  EXPECT_EQ(exchange(4, llama2(1, 512, 1376, 4, 2)), 8 * (512 + 256));
  EXPECT_EQ(exchange(8, llama2(1, 510, 1376, 4, 2)), 8 * (510 + 256 + 2));  // a whole number of values a rank
}

TEST(RanksPlan, ARefusalNamesTheKeyThatShares) {
  const auto advice = [](const TrainConfig& config, int64_t ranks) {
    const auto error = thrown_by([&] { make_memory_plan(llama2_70b(), config, on_ranks(8192, ranks), gpu(kCard)); });
    return error ? error->what_to_do : "";
  };
  EXPECT_THAT(advice(with(ShardWeights::none), 8), HasSubstr("dist.shard_weights: auto"));
  EXPECT_THAT(advice(with(ShardWeights::none), 1), testing::Not(HasSubstr("shard_weights")));
}

TEST(RanksPlan, MoreRanksReachLongerContexts) {
  const auto longest = [](int64_t ranks) { return largest_context(llama2_70b(), {}, on_ranks(8192, ranks), gpu(kCard)); };
  EXPECT_EQ(longest(1), 0);
  EXPECT_GT(longest(4), 0);
  EXPECT_GT(longest(8), longest(4));
}

}  // namespace
}  // namespace longlora
