// Rules between keys, settings of later versions, and the derived numbers of a run.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "longlora/config/run_plan.h"
#include "longlora/core/text.h"
#include "support/error_of.h"
#include "valid_text.h"

namespace longlora {
namespace {

TEST(Rules, ConflictsBetweenKeysAreNamed) {
  const struct {
    std::string line, expected;
  } cases[] = {
      {"attention: {kind: full, pattern: cross_heads}",
       "run.yaml:7:34: attention.pattern: has no effect with attention.kind full; remove it or choose attention.kind s2"},
      {"attention: {kind: s2_wrap, group_size: 1000}",
       "run.yaml:7:19: attention.kind: s2_wrap needs whole groups: data.sequence_length 4096 is no multiple of the group 1000; set "
       "data.sequence_length to 4000 or choose attention.kind s2"},
      {"tuning: {mode: lora, lora: {targets: []}, train_norms: false, train_embeddings: false}",
       "run.yaml:7:16: tuning.mode: 'lora' with these settings trains nothing; choose lora or full, or name tuning.lora.targets"},
      {"tuning: {mode: none}",
       "run.yaml:7:16: tuning.mode: 'none' with these settings trains nothing; choose lora or full, or name tuning.lora.targets"},
      {"tuning: {lora: {targets: [q_proj, v_proj, q_proj]}}",
       "run.yaml:7:26: tuning.lora.targets: names 'q_proj' twice; name every projection once"},
      {"evaluate: {every: 5}",
       "run.yaml:7:19: evaluate.every: got 5, but there is no data.validation to evaluate; add data.validation or set evaluate.every: 0"},
  };
  for (const auto& test : cases) {
    const std::vector<std::string> found = details_of([&] { parse_config(kValidYaml + test.line + "\n", "run.yaml"); });
    ASSERT_EQ(found.size(), 1u) << test.line;
    EXPECT_EQ(found[0], test.expected);
  }
}

TEST(Rules, WhatSharedRowsCannotDoIsRefused) {
  const struct {
    std::string lines, expected;  // empty: accepted
  } cases[] = {
      {"dist: {sequence_parallel: 3}", "dist.sequence_parallel: got 3, must be 1, 2, 4 or 8; use one of them"},
      {"dist: {sequence_parallel: 8}", ""},
      {"dist: {sequence_parallel: 8}\nattention: {group_size: 1026}", ""},
      {"dist: {sequence_parallel: 8}\nattention: {group_size: 1366}",
       "dist.sequence_parallel: got 8, but a row has only 6 half-groups to share; use 4 or a smaller group"},
      {"dist: {sequence_parallel: 2}\nattention: {group_size: 8192}",
       "dist.sequence_parallel: got 2, but a row has only 1 half-groups to share; use 1 or a smaller group"},
      {"dist: {sequence_parallel: 2}\nattention: {kind: full}",
       "attention.kind: 'full' and dist.sequence_parallel 2 do not go together; choose s2 or set dist.sequence_parallel: 1"},
      {"dist: {sequence_parallel: 2}\nattention: {kind: s2_wrap}",
       "attention.kind: 's2_wrap' and dist.sequence_parallel 2 do not go together; choose s2 or set dist.sequence_parallel: 1"},
      {"dist: {sequence_parallel: 4}\nattention: {full_steps: 10}",
       "attention.full_steps: 10 and dist.sequence_parallel 4 do not go together; set it to 0 or set dist.sequence_parallel: 1"},
      {"dist: {sequence_parallel: 2}\nevaluate: {attention: as_trained}", ""},
  };
  for (const auto& test : cases) {
    const std::vector<std::string> found = details_of([&] { parse_config(kValidYaml + test.lines + "\n", "run.yaml"); });
    ASSERT_EQ(found.size(), test.expected.empty() ? 0u : 1u) << test.lines;
    if (!test.expected.empty()) EXPECT_NE(found[0].find(test.expected), std::string::npos) << found[0];
  }
  const std::string shared = "model: {path: m}\ndata: {train: [{path: b}], sequence_length: 64, validation: [{path: c}], document_mask: MASK}\n"
                             "train: {steps: 1}\noutput_dir: o\ndist: {sequence_parallel: 2}\nevaluate: {every: 5, attention: KIND}\n";
  const auto found_with = [&](const std::string& mask, const std::string& kind) {
    std::string text = shared;
    text.replace(text.find("MASK"), 4, mask);
    text.replace(text.find("KIND"), 4, kind);
    return details_of([&] { parse_config(text, "run.yaml"); });
  };
  EXPECT_TRUE(found_with("false", "as_trained").empty());
  EXPECT_THAT(found_with("true", "as_trained"), testing::ElementsAre(testing::HasSubstr("data.document_mask: 'true' and ")));
  EXPECT_THAT(found_with("false", "full"), testing::ElementsAre(testing::HasSubstr("evaluate.attention: evaluations with 'full'")));
}

TEST(Rules, BatchesAndWeightsMustFit) {
  const auto first_of = [](const std::string& train, const std::string& entries) {
    const std::string text =
        fmt::format("model: {{path: m}}\ndata: {{train: {}, sequence_length: 64}}\ntrain: {}\noutput_dir: o\n", entries, train);
    const std::vector<std::string> found = details_of([&] { parse_config(text, "a"); });
    return found.empty() ? "" : found[0];
  };
  EXPECT_NE(first_of("{steps: 1, global_batch: 10, micro_batch: 4}", "[{path: b}]")
                .find("got 10, no multiple of train.micro_batch 4; use 8 or 12"),
            std::string::npos);
  EXPECT_NE(first_of("{steps: 1, global_batch: 2, micro_batch: 4}", "[{path: b}]").find("use 4 or train.micro_batch 2"), std::string::npos);
  EXPECT_NE(
      first_of("{epochs: 1}", "[{path: b, weight: 1}]").find("train.epochs: has no meaning when data.train has weights; use train.steps"),
      std::string::npos);
  EXPECT_NE(first_of("{steps: 1}", "[{path: b, split: separator}]")
                .find("entry 1: split 'separator' and the key separator belong together; add separator: LINE"),
            std::string::npos);
  EXPECT_NE(
      first_of("{steps: 1}", "[{path: b}, {path: c, format: tokens, field: x}]").find("entry 2: field has no effect with format 'tokens'"),
      std::string::npos);
  EXPECT_EQ(first_of("{steps: 1, global_batch: 12, micro_batch: 4}", "[{path: b, weight: 1}, {path: c, weight: 2}]"), "");
}

TEST(Rules, SettingsOfLaterVersionsAreRefusedByName) {
  const char* const lines[] = {"data.packing: pad",
                               "data.packing: pack",
                               "data.template: llama2",
                               "data.template: alpaca",
                               "data.template: chatml",
                               "data.template: llama3",
                               "data.train: [{path: a, format: alpaca}]",
                               "data.train: [{path: a, format: sharegpt}]",
                               "data.train: [{path: a, format: messages}]",
                               "data.train: [{path: a, format: parquet}]",
                               "data.validation: [{path: a, format: parquet}]",
                               "evaluate.passkey.contexts: [1024]",
                               "evaluate.passkey.trials: 3",
                               "memory.halo_streaming: full_host",
                               "precision.compute: fp16",
                               "model.dtype: fp16",
                               "data.train_on: all",
                               "data.system_prompt: hello",
                               "data.truncate: right",
                               "data.truncate: drop",
                               "data.on_bad_row: skip",
                               "attention.deterministic: false"};
  for (const std::string line : lines) {
    const size_t colon = line.find(": ");
    const std::string key = line.substr(0, colon);
    std::vector<Assignment> assignments = {
        {"model.path", "m", "--set"},  {"data.train", "[{path: b}]", "--set"}, {"data.sequence_length", "64", "--set"},
        {"train.steps", "1", "--set"}, {"output_dir", "o", "--set"},           {key, line.substr(colon + 2), "--set"}};
    const Error error = *thrown_by([&] { load_config({{}, {}, assignments}); });
    EXPECT_EQ(error.kind, ErrorKind::config);
    ASSERT_EQ(error.details.size(), 1u) << line;
    EXPECT_NE(error.details[0].find(key + ": "), std::string::npos) << error.details[0];
    EXPECT_NE(error.details[0].find("not in this version"), std::string::npos) << error.details[0];
  }
}

TEST(Rules, TheSchemaIsJsonAndHasEveryKey) {
  const nlohmann::json schema = nlohmann::json::parse(config_schema());
  EXPECT_EQ(schema.at("$schema"), "http://json-schema.org/draft-07/schema#");
  const std::string document = config_markdown();
  for (const KeyInfo& key : config_keys()) {
    const nlohmann::json* node = &schema;
    for (const std::string& name : split(key.key, '.')) {
      EXPECT_EQ(node->at("additionalProperties"), false) << key.key;
      node = &node->at("properties").at(name);
    }
    EXPECT_EQ(node->at("description"), key.help);
    EXPECT_NE(document.find("| `" + key.key + "` |"), std::string::npos) << key.key;
  }
}

ModelConfig small_model() {
  ModelConfig model;
  model.vocab_size = 100, model.hidden_size = 64, model.intermediate_size = 128, model.num_layers = 2;
  model.num_heads = 4, model.num_kv_heads = 2, model.head_dim = 16, model.max_position = 512;
  return model;
}

TEST(RunPlan, GroupFollowsTheRuleOfTheSpecification) {
  const auto by_ratio = [](double ratio, int64_t length) { return resolve_group({.group_ratio = ratio}, length); };
  EXPECT_EQ(by_ratio(0.25, 4096), 1024);
  EXPECT_EQ(by_ratio(0.25, 8192), 2048);
  EXPECT_EQ(by_ratio(0.25, 100000), 25000);
  EXPECT_EQ(by_ratio(0.25, 1001), 252);        // up to the next even number
  EXPECT_EQ(by_ratio(1.0 / 3.0, 3000), 1000);  // the product is 1000.0 but for rounding
  EXPECT_EQ(by_ratio(0.1, 30), 4);
  EXPECT_EQ(by_ratio(0.25, 1), 2);
  EXPECT_EQ(resolve_group({}, 4096), 1024);
  EXPECT_EQ(resolve_group({.group_size = 500}, 4096), 500);
  EXPECT_EQ(resolve_group({.group_preset = GroupPreset::longlora_sft}, 4096), 1024);
  EXPECT_EQ(resolve_group({.group_preset = GroupPreset::longlora_sft}, 4097), 8192);
  for (int64_t length = 1; length < 2000; ++length) {
    const int64_t group = by_ratio(0.25, length);
    EXPECT_EQ(group % 2, 0);
    EXPECT_GE(4 * group, length);
    EXPECT_LT(4 * (group - 2), length);
  }
}

TEST(RunPlan, PatternsAreNumbersOfPlainHeads) {
  EXPECT_EQ(num_plain_heads(AttentionPattern::cross_heads, 9, 0), 4);
  EXPECT_EQ(num_plain_heads(AttentionPattern::cross_heads, 1, 5), 0);
  EXPECT_EQ(num_plain_heads(AttentionPattern::cross_layers, 9, 0), 9);
  EXPECT_EQ(num_plain_heads(AttentionPattern::cross_layers, 9, 1), 0);
  EXPECT_EQ(num_plain_heads(AttentionPattern::plain_only, 9, 1), 9);
  EXPECT_EQ(num_plain_heads(AttentionPattern::shifted_only, 9, 0), 0);
}

TEST(RunPlan, NumbersMultiplyUp) {
  TrainConfig config = valid_config();
  config.train.global_batch = 24, config.train.micro_batch = 2;
  for (const int64_t ranks : {1, 2, 3, 4, 6, 12}) {
    const RunPlan plan = make_run_plan(config, small_model(), ranks);
    EXPECT_EQ(plan.canonical_shards, 12);
    EXPECT_EQ(plan.tokens_per_step, 24 * 4096);
    EXPECT_EQ(plan.micro_batch * plan.sequence_length * plan.accumulation * plan.ranks, plan.tokens_per_step);
    EXPECT_EQ(plan.group, 1024);
    EXPECT_EQ(plan.total_steps, 100);
    EXPECT_EQ(plan.rope.new_context, 4096);
  }
  EXPECT_EQ(
      error_of([&] { make_run_plan(config, small_model(), 5); }),
      "train.global_batch: 12 shards (global_batch / micro_batch) cannot be split over 5 ranks (configuration); start 1, 2, 3, 4, 6, 12 ranks, or use a multiple of 10");
  config.attention.kind = AttentionKind::full;
  EXPECT_EQ(make_run_plan(config, small_model()).group, 0);
}

TEST(RunPlan, ModelDependentConflictsAreReportedTogether) {
  TrainConfig config = valid_config();
  config.attention.group_size = 1001;
  config.tuning.train_head = true, config.tuning.train_embeddings = false;
  config.data.eos = 100;
  config.train.global_batch = 7, config.train.micro_batch = 2;
  ModelConfig model = small_model();
  model.tied = true, model.head_dim = 15, model.num_kv_heads = 3;
  const Error error = *thrown_by([&] { make_run_plan(config, model); });
  const std::vector<std::string> expected = {"attention.group_size: got 1001, must be even; use 1000 or 1002",
                                             "train.global_batch: got 7, no multiple of train.micro_batch 2; use 6 or 8",
                                             "model.path: 4 query heads are no multiple of 3 key/value heads; use another model",
                                             "model.path: head size 15 is odd, rotary embedding needs pairs; use another model",
                                             "data.eos: got 100, the vocabulary ends at 99; give an id inside it",
                                             "tuning.train_head: got true, but this model's head is its embedding and "
                                             "tuning.train_embeddings is false; remove it or make both equal"};
  EXPECT_EQ(error.kind, ErrorKind::config);
  EXPECT_EQ(error.details, expected);
}

}  // namespace
}  // namespace longlora
