// Where values come from: precedence, presets, rivals, origins.

#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "valid_text.h"

namespace longlora {
namespace {

struct Preset64 {
  TempDir dir;
  std::map<std::string, std::string> environment;
  Preset64() {
    dir.write("presets/small.yaml",
              "# A small preset.\nattention: {group_size: 512}\ntrain: {steps: 10, seed: 1, global_batch: 4}\noptimizer: {eps: 1e-6}\n");
    environment["LONGLORA_CONFIGS"] = (dir / "presets").string();
  }
  std::filesystem::path file(const std::string& text) const { return dir.write("run.yaml", text); }
};

const std::string kRest = "model: {path: m}\ndata: {train: [{path: b}], sequence_length: 4k}\noutput_dir: o\npreset: small\n";

TEST(Sources, EachSourceOverridesTheOnesBeforeIt) {
  Preset64 at;
  at.environment["LONGLORA_TRAIN__GLOBAL_BATCH"] = "16";
  at.environment["LONGLORA_LOG__EVERY"] = "3";
  at.environment["LONGLORA_THREADS"] = "nonsense";   // no key: not ours to judge
  at.environment["HOME"] = "/";
  const LoadedConfig loaded = load_config({at.file(kRest + "train: {seed: 2, global_batch: 8}\n"), at.environment,
                                           {{"log.every", "4", "--set"}, {"output_dir", "here", "--output-dir"}}});
  EXPECT_EQ(loaded.config.optimizer.eps, 1e-6);
  EXPECT_EQ(loaded.config.train.seed, 2);
  EXPECT_EQ(loaded.config.train.global_batch, 16);
  EXPECT_EQ(loaded.config.log.every, 4);
  EXPECT_EQ(loaded.config.output_dir, "here");
  EXPECT_EQ(loaded.config.train.steps, 10);
  EXPECT_EQ(loaded.origins.at("optimizer.eps"), "preset small");
  EXPECT_EQ(loaded.origins.at("train.seed"), (at.dir / "run.yaml").string() + ":5:15");
  EXPECT_EQ(loaded.origins.at("train.global_batch"), "LONGLORA_TRAIN__GLOBAL_BATCH");
  EXPECT_EQ(loaded.origins.at("log.every"), "--set");
  EXPECT_EQ(loaded.origins.at("output_dir"), "--output-dir");
  EXPECT_EQ(loaded.origins.at("rope.scaling"), "default");
  const std::string printed = print_config(loaded.config, loaded.origins);
  EXPECT_TRUE(printed.starts_with("# preset small, resolved\n"));
  EXPECT_NE(printed.find("  eps: 1e-06   # preset small\n"), std::string::npos) << printed;
}

TEST(Sources, ALaterLayerReplacesItsRivals) {
  Preset64 at;
  const TrainConfig by_file =
      load_config({at.file(kRest + "attention: {group_ratio: 0.5}\ntrain: {epochs: 2}\n"), at.environment, {}}).config;
  EXPECT_FALSE(by_file.attention.group_size.has_value());
  EXPECT_EQ(by_file.attention.group_ratio, 0.5);
  EXPECT_FALSE(by_file.train.steps.has_value());
  const TrainConfig unset = load_config({at.file(kRest), at.environment, {{"attention.group_ratio", "none", "--set"}}}).config;
  EXPECT_EQ(unset.attention.group_size, 512) << "`none` replaces nothing";
}

TEST(Sources, RivalsInOneLayerConflict) {
  EXPECT_EQ(error_of([] { parse_config(kValidYaml + "attention: {group_size: 512, group_ratio: 0.25}\n", "run.yaml"); }),
            "attention.group_ratio: given together with attention.group_size (run.yaml:7:25) (run.yaml:7:43); keep one of them");
  EXPECT_EQ(details_of([] {
              load_config({{},
                           {},
                           {{"model.path", "m", "--set"},
                            {"data.train", "[{path: b}]", "--set"},
                            {"data.sequence_length", "64", "--set"},
                            {"output_dir", "o", "--set"},
                            {"train.steps", "1", "--set"},
                            {"train.epochs", "1", "--set"}}});
            }).at(0),
            "--set train.epochs=1: train.epochs: given together with train.steps (--set train.steps=1); keep one of them");
}

TEST(Sources, UnknownPresetsAndAssignmentsAreNamed) {
  Preset64 at;
  EXPECT_EQ(error_of([&] { load_config({at.file(kValidYaml + "preset: smal\n"), at.environment, {}}); }),
            "preset: 'smal' is not a preset (" + (at.dir / "run.yaml").string() + ":7:9); did you mean 'small'?");
  EXPECT_EQ(error_of([&] { load_config({at.file(kValidYaml), {}, {{"train.sed", "4", "--set"}}}); }),
            "train.sed: unknown key (--set train.sed=4); did you mean 'train.seed'?");
  EXPECT_EQ(error_of([&] { load_config({at.file(kValidYaml), {}, {{"train", "4", "--set"}}}); }),
            "train: is a section, not a key (--set train=4); set one of its keys, as train.KEY=VALUE");
  EXPECT_EQ(error_of([&] {
              load_config({at.file(kValidYaml), {{"LONGLORA_TRAIN__SEED", "x"}}, {}});
            }),
            "train.seed: got 'x', expected an integer in [0, 9223372036854775807] (LONGLORA_TRAIN__SEED); give an integer in [0, "
            "9223372036854775807]");
  EXPECT_EQ(kind_of([&] { load_config({at.file(kValidYaml), {}, {{"data.train", "[{path: a}", "--set"}}}); }), ErrorKind::config);
  EXPECT_EQ(kind_of([&] {
              load_config({at.file(kValidYaml), {}, {{"data.train", "[{path: a}]\nlog: {every: 3}", "--set"}}});
            }),
            ErrorKind::config);
}

TEST(Sources, TextGivenOutsideAFileIsTakenAsItStands) {
  Preset64 at;
  const TrainConfig config =
      load_config({at.file(kValidYaml), {}, {{"output_dir", "a: [b] # *c", "--set"}, {"data.train", "[{path: \"x y\"}]", "--set"}}}).config;
  EXPECT_EQ(config.output_dir, "a: [b] # *c");
  EXPECT_EQ(config.data.train.at(0).path, "x y");
  EXPECT_EQ(parse_config(print_config(config), "again.yaml").config.output_dir, config.output_dir);
}

TEST(Sources, EveryShippedPresetLoads) {
  const std::vector<Preset> presets = list_presets();
  std::vector<std::string> names;
  for (const Preset& preset : presets) {
    names.push_back(preset.name);
    EXPECT_GT(preset.summary.size(), 20u) << preset.name;
    const LoadedConfig loaded = load_config({std::filesystem::path(preset.path), {}, {}});
    const LoadedConfig by_name = load_config({{}, {}, {{"preset", preset.name, "--set"}}});
    EXPECT_EQ(canonical_json(loaded.config), canonical_json(by_name.config)) << preset.name;
  }
  for (const char* shipped : {"quickstart", "llama2_7b_32k", "llama2_7b_100k", "llama2_13b_64k", "llama2_70b_32k", "smollm2_16k"})
    EXPECT_NE(std::find(names.begin(), names.end(), shipped), names.end()) << shipped;
}

TEST(Sources, LegacyFlagsBecomeKeysWithNotices) {
  const LegacyTranslation t = translate_legacy_flags({"--model_name_or_path",
                                                      "path/Llama-2-7b",
                                                      "--bf16",
                                                      "True",
                                                      "--output_dir",
                                                      "out",
                                                      "--model_max_length=8192",
                                                      "--use_flash_attn",
                                                      "True",
                                                      "--data_path",
                                                      "a b.txt",
                                                      "--low_rank_training",
                                                      "True",
                                                      "--trainable_params",
                                                      "embed,norm",
                                                      "--num_train_epochs",
                                                      "1",
                                                      "--per_device_train_batch_size",
                                                      "1",
                                                      "--gradient_accumulation_steps",
                                                      "8",
                                                      "--save_steps",
                                                      "1000",
                                                      "--save_total_limit",
                                                      "2",
                                                      "--learning_rate",
                                                      "2e-5",
                                                      "--weight_decay",
                                                      "0.0",
                                                      "--warmup_steps",
                                                      "20",
                                                      "--lr_scheduler_type",
                                                      "constant_with_warmup",
                                                      "--logging_steps",
                                                      "1",
                                                      "--deepspeed",
                                                      "ds_configs/stage2.json",
                                                      "--tf32",
                                                      "True",
                                                      "--max_steps",
                                                      "1000",
                                                      "--seed",
                                                      "3"});
  const TrainConfig config = load_config({{}, {}, t.assignments}).config;
  EXPECT_EQ(config.model.path, "path/Llama-2-7b");
  EXPECT_EQ(config.data.train.at(0).path, "a b.txt");
  EXPECT_EQ(config.data.sequence_length, 8192);
  EXPECT_EQ(config.train.global_batch, 8);
  EXPECT_EQ(config.train.micro_batch, 1);
  EXPECT_EQ(config.train.steps, 1000);
  EXPECT_FALSE(config.train.epochs.has_value());
  EXPECT_EQ(config.train.seed, 3);
  EXPECT_EQ(config.optimizer.learning_rate, 2e-5);
  EXPECT_EQ(config.schedule.kind, ScheduleKind::constant_with_warmup);
  EXPECT_EQ(config.checkpoint.every, 1000);
  EXPECT_EQ(config.precision.compute, ComputeType::bf16);
  EXPECT_TRUE(config.tuning.train_embeddings && config.tuning.train_norms);
  const auto told = [&](std::string_view part) {
    return std::any_of(t.notices.begin(), t.notices.end(), [&](const std::string& n) { return n.find(part) != std::string::npos; });
  };
  EXPECT_TRUE(told("--deepspeed is accepted and ignored: memory.policy"));
  EXPECT_TRUE(told("--num_train_epochs is ignored: --max_steps is given"));
  EXPECT_TRUE(told("--model_max_length is LongLoRA's spelling of data.sequence_length: 8192"));
}

TEST(Sources, LegacyFlagsThatAreWrongAreUsageErrors) {
  EXPECT_EQ(error_of([] { translate_legacy_flags({"--modl_name_or_path", "x"}); }),
            "unknown flag (argument --modl_name_or_path); did you mean --model_name_or_path?");
  EXPECT_EQ(error_of([] { translate_legacy_flags({"--seed"}); }), "a value is missing (argument --seed); write --seed VALUE");
  EXPECT_EQ(error_of([] { translate_legacy_flags({"--trainable_params", "embed,mlp"}); }),
            "'mlp' is unknown (argument --trainable_params); name embed, norm or both");
  EXPECT_EQ(kind_of([] { translate_legacy_flags({"--bf16", "perhaps"}); }), ErrorKind::usage);
  EXPECT_EQ(translate_legacy_flags({"--use_full_attn", "--seed", "1"}).assignments.at(0).value, "full");
}

}  // namespace
}  // namespace longlora
