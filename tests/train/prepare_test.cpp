// What ranks of one host share, what the start banner says, and the next plan after one kind of memory or the other was short.
#include "longlora/train/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/tiny_run.h"

namespace longlora {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;

LoadedConfig tiny_config(const TinyRun& tiny) { return parse_config(tiny.yaml("lora", "out", "device: cpu\n"), "run.yaml"); }

std::string line_of(const PreparedRun& run, std::string_view name) {
  for (const std::string& line : banner(run))
    if (line.starts_with(name)) return line;
  return "";
}

TEST(PreparedRun, RanksOfAHostShareItsDefaultBudgetOnly) {
  const TinyRun tiny;
  const int64_t alone = prepare_run(tiny_config(tiny)).memory.budget_bytes;
  const int64_t one_of_eight = prepare_run(tiny_config(tiny), PrepareFor::training, 1, 8).memory.budget_bytes;
  EXPECT_GT(8 * one_of_eight, alone / 2);  // what is available changes from moment to moment
  EXPECT_LT(8 * one_of_eight, 2 * alone);
  LoadedConfig given = tiny_config(tiny);
  given.config.memory.host_budget = kGib;
  EXPECT_EQ(prepare_run(given, PrepareFor::training, 1, 8).memory.budget_bytes, kGib);

  const ComputeDevice gpu{.where = at::Device(at::kCUDA, 0)};
  TrainConfig on_gpu;
  on_gpu.memory.device_budget = kGib;
  EXPECT_LT(8 * plan_target(gpu, on_gpu, ComputeType::bf16, 8).host_budget_bytes, 2 * alone);
}

TEST(PreparedRun, BannerCountsAllRanks) {
  const TinyRun tiny;
  EXPECT_THAT(line_of(prepare_run(tiny_config(tiny)), "world"), testing::StartsWith("world      1 rank, "));
  EXPECT_THAT(line_of(prepare_run(tiny_config(tiny), PrepareFor::training, 3), "world"), testing::StartsWith("world      3 ranks, each "));
}

/// A model of 7B with long rows on a card where some inputs wait on the host.
struct OnACard {
  TinyRun tiny;
  PreparedRun run;

  OnACard() {
    tiny.dir.write("model/config.json",
                   R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
 "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
 "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 2})");
    LoadedConfig loaded = tiny_config(tiny);
    loaded.config.data.sequence_length = 65536;
    loaded.config.memory.host_budget = 1024 * kGib;
    run = prepare_run(std::move(loaded));
    run.device.where = at::Device(at::kCUDA, 0);
  }
  void plan(int64_t device_bytes, int64_t host_bytes) {
    run.within = {PlanTarget::Device::gpu, 2, device_bytes, host_bytes};
    run.memory = make_memory_plan(run.base->config, run.config(), run.plan, run.within);
  }
};

TEST(Replan, AfterTheDeviceWasShortAsksLessOfIt) {
  OnACard card;
  card.plan(40 * kGib, 64 * kGib);
  const int64_t before = card.run.memory.peak_bytes();
  ASSERT_TRUE(replan_with_less(card.run, ShortOf::device_memory));
  EXPECT_LE(card.run.memory.peak_bytes(), before / 20 * 19);
  EXPECT_EQ(card.run.memory.budget_bytes, 40 * kGib);  // the configured one still
}

TEST(Replan, AfterTheHostWasShortAsksLessOfItAndNoMoreOfTheDevice) {
  OnACard card;
  card.plan(40 * kGib, 64 * kGib);
  for (int times = 0; times < 3; ++times) {
    const int64_t before = card.run.memory.offload_host_bytes;
    ASSERT_GT(before, 0);
    ASSERT_TRUE(replan_with_less(card.run, ShortOf::host_memory)) << times;
    EXPECT_LT(card.run.memory.offload_host_bytes, before);
    EXPECT_LE(card.run.memory.peak_bytes(), 40 * kGib);
  }
}

TEST(Replan, WhatTheHostHeldBeforeIsItsLimitWhereTheNextPlanAskedForMore) {
  OnACard card;
  card.plan(40 * kGib, 64 * kGib);
  const int64_t held = card.run.memory.offload_host_bytes, device = card.run.memory.peak_bytes() / 20 * 19;
  ASSERT_TRUE(replan_with_less(card.run, ShortOf::device_memory));
  ASSERT_GT(card.run.memory.offload_host_bytes, held);
  ASSERT_TRUE(replan_with_less(card.run, ShortOf::host_memory));
  EXPECT_LE(card.run.memory.offload_host_bytes, held);
  EXPECT_LE(card.run.memory.peak_bytes(), device);  // what failed before still counts
}

TEST(Replan, OfOneMemoryIsTheSameForBoth) {
  const TinyRun tiny;
  for (const ShortOf what : {ShortOf::device_memory, ShortOf::host_memory}) {
    PreparedRun run = prepare_run(tiny_config(tiny));
    const int64_t before = run.memory.peak_bytes();
    ASSERT_TRUE(replan_with_less(run, what));
    EXPECT_LE(run.memory.peak_bytes(), before / 20 * 19);
  }
}

}  // namespace
}  // namespace longlora
