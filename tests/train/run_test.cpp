// Whole runs through run_training: what is written, and that an interrupted run ends on the same hash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/formats/weights.h"
#include "longlora/train/export_run.h"
#include "longlora/train/report.h"
#include "support/error_of.h"
#include "train/tiny_run.h"

namespace longlora {
namespace {

using testing::HasSubstr;
using Sets = std::vector<std::pair<std::string, std::string>>;

class Runs : public testing::TestWithParam<const char*> {
 protected:
  std::string yaml(const std::string& output, const std::string& extra = "") const { return tiny.yaml(GetParam(), output, extra); }
  void run(const std::string& output, const Sets& sets, const std::string& extra = "") {
    run_training(tiny.request(yaml(output, extra), sets));
  }
  TinyRun tiny;
};

TEST_P(Runs, ResumeEqualsTheUninterruptedRun) {
  const Sets six = {{"train.steps", "6"}, {"checkpoint.every", "2"}};
  run("whole", six);
  run("parts", {{"train.steps", "2"}, {"checkpoint.every", "2"}});
  run("parts", {{"train.steps", "5"}, {"checkpoint.every", "2"}});
  run("parts", six);
  const auto whole = tiny.metrics("whole"), parts = tiny.metrics("parts");
  ASSERT_EQ(whole.size(), 6u);
  ASSERT_EQ(parts.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(lasting(whole[i]), lasting(parts[i]));
}

TEST_P(Runs, PoliciesAndPrefetchChangeNoBit) {
  const Sets sets = {{"train.steps", "3"}};
  run("a", sets, "memory: {policy: save_all}\n");
  const std::string want = lasting(tiny.metrics("a").back());
  for (const std::string policy : {"save_attention", "checkpoint"}) {
    run(policy, {{"train.steps", "3"}, {"data.prefetch", "0"}}, "memory: {policy: " + policy + "}\nlog: {tensorboard: false}\n");
    EXPECT_EQ(lasting(tiny.metrics(policy).back()), want);
  }
}

TEST_P(Runs, LeavesTheFilesOfTheSpecification) {
  const std::string lists = fmt::format("evaluate: {{every: 2, perplexity: {{contexts: [16, 32]}}}}\n");
  TrainRequest request = tiny.request(
      yaml("out", lists), {{"train.steps", "4"},
                           {"checkpoint.every", "1"},
                           {"checkpoint.keep", "2"},
                           {"data.validation", "[{path: " + (tiny.dir / "validation.bin").string() + ", format: raw_uint16}]"}});
  run_training(request);
  const std::string result = std::string(GetParam()) == "lora" ? "adapter/adapter_model.safetensors" : "model/model.safetensors";
  for (const std::string& name :
       {std::string("config.yaml"), std::string("environment.json"), std::string("metrics.jsonl"), std::string("evaluation.jsonl"),
        std::string("logs/rank_0.log"), std::string("report.html"), std::string("plan.json"), result}) {
    EXPECT_TRUE(std::filesystem::exists(tiny.dir / ("out/" + name))) << name;
  }
  std::vector<std::string> steps;
  for (const auto& entry : std::filesystem::directory_iterator(tiny.dir / "out/checkpoints")) steps.push_back(entry.path().filename());
  EXPECT_THAT(steps, testing::UnorderedElementsAre("step-0000000003", "step-0000000004"));
  for (const std::string& line : tiny.metrics("out")) {
    const JsonValue value = parse_json(line, "metrics.jsonl");
    for (const char* key :
         {"step", "loss", "grad_norm", "lr", "tokens", "seconds", "tokens_per_second", "mfu", "hfu", "memory_peak_bytes", "hash"})
      EXPECT_NE(value.find(key), nullptr) << key;
  }
  EXPECT_THAT(tiny.dir.read("out/config.yaml"), HasSubstr("--set"));
  const std::string report = tiny.dir.read("out/report.html");
  for (const char* part : {"<svg", "Planned and measured", "seconds a step, median", "measured at the start"})
    EXPECT_THAT(report, HasSubstr(part));
  const JsonValue plan = parse_json(tiny.dir.read("out/plan.json"), "plan.json");
  ASSERT_NE(plan.find("step_seconds"), nullptr);
  EXPECT_GT(plan.find("step_seconds")->find("total")->number().value_or(0), 0);
  EXPECT_GT(plan.find("tokens_per_second")->number().value_or(0), 0);
  const std::string evaluations = tiny.dir.read("out/evaluation.jsonl");
  EXPECT_EQ(std::count(evaluations.begin(), evaluations.end(), '\n'), 3);  // 0, 2, 4
}

INSTANTIATE_TEST_SUITE_P(Modes, Runs, testing::Values("lora", "full"), [](const auto& info) { return std::string(info.param); });

class Resume : public testing::Test {
 protected:
  void run(const Sets& sets, const std::string& extra = "") { run_training(tiny.request(tiny.yaml("lora", "out", extra), sets)); }
  std::optional<Error> failure(const Sets& sets, const std::string& extra = "") {
    return thrown_by([&] { run(sets, extra); });
  }
  TinyRun tiny;
};

TEST_F(Resume, ListsEveryFrozenKeyThatDiffers) {
  run({{"train.steps", "2"}});
  const auto error = failure({{"train.steps", "4"}, {"train.seed", "7"}, {"tuning.lora.rank", "4"}});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::mismatch);
  EXPECT_THAT(error->details, testing::UnorderedElementsAre("train.seed: 42 -> 7", "tuning.lora.rank: 8 -> 4"));
  EXPECT_EQ(tiny.metrics("out").size(), 2u);
}

TEST_F(Resume, ExplicitKeysNeedTheCommandLineAndStayInForce) {
  run({{"train.steps", "2"}});
  const std::string file_change = "attention: {full_steps: 1}\n";
  const auto error = failure({{"train.steps", "3"}}, file_change);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::mismatch);
  EXPECT_THAT(error->what_to_do, HasSubstr("--set attention.full_steps=1"));
  run({{"train.steps", "3"}, {"attention.full_steps", "1"}});
  run({{"train.steps", "4"}});  // the file still says 0: 1 stays in force
  EXPECT_THAT(tiny.metrics("out").back(), HasSubstr("\"attention\": \"full\""));
}

TEST_F(Resume, RefusesOtherDataByDigest) {
  run({{"train.steps", "2"}});
  tiny.dir.write("train.bin", tiny_tokens(1500, 9));
  const auto error = failure({{"train.steps", "3"}});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::mismatch);
  EXPECT_THAT(error->details.front(), HasSubstr("data: "));
}

TEST_F(Resume, NeverWantsAnEmptyFolder) {
  run({{"train.steps", "1"}});
  TrainRequest request = tiny.request(tiny.yaml("lora", "out"), {{"train.steps", "1"}});
  request.resume = ResumeMode::never;
  const auto error = thrown_by([&] { run_training(request); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::busy);
  EXPECT_THAT(error->what_happened, HasSubstr("the folder is not empty"));
}

TEST_F(Resume, AFinishedRunRunsAgainWithoutSteps) {
  run({{"train.steps", "2"}});
  const auto before = tiny.metrics("out");
  run({{"train.steps", "2"}});
  EXPECT_EQ(tiny.metrics("out"), before);
}

TEST_F(Resume, AStopFileFoundAtStartIsRemoved) {
  std::filesystem::create_directories(tiny.dir / "out");
  tiny.dir.write("out/STOP", "");
  run({{"train.steps", "1"}});
  EXPECT_FALSE(std::filesystem::exists(tiny.dir / "out/STOP"));
  EXPECT_EQ(tiny.metrics("out").size(), 1u);
}

TEST(Gradients, AreDumpedUnderTheNamesOfOtherTools) {
  TinyRun tiny;
  TrainRequest request = tiny.request(tiny.yaml("lora", "out"), {{"train.steps", "1"}});
  request.dump_gradients = tiny.dir / "g.safetensors";
  run_training(request);
  const auto gradients = open_safetensors(tiny.dir / "g.safetensors");
  EXPECT_NE(gradients->find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), nullptr);
  EXPECT_NE(gradients->find("model.embed_tokens.weight"), nullptr);
  EXPECT_EQ(gradients->metadata().at("target_tokens"), std::to_string(3 * 31));
  EXPECT_TRUE(tiny.metrics("out").empty());
}

TEST(ExportRun, WritesTheNewestCheckpointAndRefusesAnExistingTarget) {
  TinyRun tiny;
  run_training(tiny.request(tiny.yaml("full", "out"), {{"train.steps", "2"}}));
  export_run(tiny.dir / "out", {.to = tiny.dir / "merged", .dtype = DType::bf16});
  const auto weights = open_weight_folder(tiny.dir / "merged");
  EXPECT_EQ(weights->find("model.norm.weight")->dtype, DType::bf16);
  EXPECT_THAT(error_of([&] { export_run(tiny.dir / "out", {.to = tiny.dir / "merged"}); }), HasSubstr("the target exists"));
}

TEST(ExportRun, TakesTheNextLowerWhereTheNewestIsDamagedAndTouchesNothing) {
  TinyRun tiny;
  run_training(tiny.request(tiny.yaml("full", "out"), {{"train.steps", "2"}, {"checkpoint.every", "1"}, {"checkpoint.keep", "2"}}));
  tiny.dir.write("out/checkpoints/step-0000000002/state.json", "{}");
  export_run(tiny.dir / "out", {.to = tiny.dir / "merged"});
  EXPECT_THAT(read_file(tiny.dir / "merged/README.md", 1 << 20), HasSubstr("steps: 1\n"));
  EXPECT_TRUE(std::filesystem::exists(tiny.dir / "out/checkpoints/step-0000000002"));
  std::filesystem::remove_all(tiny.dir / "out/checkpoints");
  EXPECT_THAT(error_of([&] { export_run(tiny.dir / "out", {.to = tiny.dir / "other"}); }), HasSubstr("no checkpoint"));
}

TEST(Report, NeedsARun) {
  TempDir dir;
  EXPECT_THAT(error_of([&] { write_report(dir.path()); }), HasSubstr("metrics.jsonl is not there"));
}

TEST(DryRun, WritesNothing) {
  TinyRun tiny;
  TrainRequest request = tiny.request(tiny.yaml("lora", "out"), {{"train.steps", "1"}});
  request.dry_run = true;
  EXPECT_EQ(run_training(request), 0);
  EXPECT_FALSE(std::filesystem::exists(tiny.dir / "out"));
}

}  // namespace
}  // namespace longlora
