#include <gtest/gtest.h>

#include "plan/published_models.h"

namespace longlora {
namespace {

struct Published {
  const char* name;
  ModelConfig model;
  int64_t projections, lora, trainable;
};

class Counts : public testing::TestWithParam<Published> {};

TEST_P(Counts, EqualThePublishedTable) {
  const Published& p = GetParam();
  const ParameterCounts counts = count_parameters(p.model, {});
  EXPECT_EQ(counts.projections, p.projections);
  EXPECT_EQ(counts.lora, p.lora);
  EXPECT_EQ(counts.trainable, p.trainable);
  EXPECT_EQ(counts.trainable, counts.lora + counts.norms + counts.embeddings);
}

// By hand: 7B N = 32 (4 * 4096^2 + 3 * 4096 * 11008), LoRA = 8 * 32 * (6 * 4096 + 2 * 4096), norms 65 * 4096, embedding 32000 * 4096.
INSTANTIATE_TEST_SUITE_P(Llama2, Counts,
                         testing::Values(Published{"7B", llama2_7b(), 6476005376, 8388608, 8388608 + 266240 + 131072000},
                                         Published{"13B", llama2_13b(), 12687769600, 13107200, 13107200 + 414720 + 163840000},
                                         Published{"70B", llama2_70b(), 68451041280, 32768000, 32768000 + 1318912 + 262144000}),
                         [](const auto& info) { return "model_" + std::string(info.param.name); });

TEST(Counts, OneAddedTokenGivesThePaperModelsSize) {
  ModelConfig model = llama2_7b();
  model.vocab_size = 32001;
  EXPECT_EQ(count_parameters(model, {}).trainable, 139730944);
}

TEST(Counts, FullTuningTrainsEverythingAndHasNoLora) {
  TrainConfig::Tuning tuning;
  tuning.mode = TuningMode::full;
  const ParameterCounts counts = count_parameters(llama2_7b(), tuning);
  EXPECT_EQ(counts.lora, 0);
  EXPECT_EQ(counts.trainable, counts.total);
  EXPECT_EQ(counts.total, 6738415616);  // Llama-2-7B as published
}

TEST(Counts, ATiedHeadIsCountedOnce) {
  ModelConfig model = llama2_7b();
  model.tied = true;
  TrainConfig::Tuning tuning;
  tuning.mode = TuningMode::full;
  EXPECT_EQ(count_parameters(model, tuning).total, 6738415616 - 131072000);
}

TEST(Counts, LoraCountsEveryTargetByItsOwnWidths) {
  TrainConfig::Tuning tuning;
  tuning.lora.rank = 4;
  tuning.lora.targets = {LoraTarget::gate_proj, LoraTarget::up_proj, LoraTarget::down_proj};
  tuning.train_norms = tuning.train_embeddings = false;
  EXPECT_EQ(count_parameters(llama2_7b(), tuning).trainable, 32 * 4 * 3 * (4096 + 11008));
}

}  // namespace
}  // namespace longlora
