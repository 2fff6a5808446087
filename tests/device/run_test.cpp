// Whole runs with `device: cuda` on the fake device, through run_training: the real trainer, step, optimizer, checkpoints, evaluation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/fake_device.h"
#include "longlora/checkpoint/commit.h"
#include "longlora/checkpoint/train_state.h"
#include "longlora/config/model_config.h"
#include "longlora/core/json.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/train/export_run.h"
#include "support/error_of.h"
#include "support/tolerances.h"
#include "train/planned_training.h"

namespace longlora {
namespace {

using testing::HasSubstr;
using Sets = std::vector<std::pair<std::string, std::string>>;

std::string config_json() {
  return R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48, "intermediate_size": 40,
 "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 48,
 "max_position_embeddings": 16, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false,
 "torch_dtype": "float32", "eos_token_id": 2})";
}

double number(const std::string& line, const char* key) { return *parse_json(line, "metrics").find(key)->number(); }

class DeviceRuns : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  DeviceRuns() {
    tiny.dir.write("model/config.json", config_json());
    std::string tokens = tiny_tokens(1500, 1);
    for (size_t i = 0; i < tokens.size(); i += 26) tokens.replace(i, 2, "\x02\0", 2);  // documents of 13 tokens
    tiny.dir.write("train.bin", tokens);
  }
  std::string mode() const { return std::get<0>(GetParam()); }
  std::string compute() const { return std::get<1>(GetParam()); }
  void run(const std::string& output, const std::string& device, Sets sets, const std::string& extra = "") {
    sets.insert(sets.end(), {{"device", device}, {"precision.compute", compute()}});
    run_training(tiny.request(tiny.yaml(mode(), output, extra), sets));
  }
  TinyRun tiny;
};

TEST_P(DeviceRuns, LossAndNormAgreeWithTheCpu) {
  run("cpu", "cpu", {{"train.steps", "3"}});
  const int64_t before = fake::launches();
  run("device", "cuda", {{"train.steps", "3"}});
  EXPECT_GT(fake::launches(), before + 100);
  const auto want = tiny.metrics("cpu"), got = tiny.metrics("device");
  ASSERT_EQ(got.size(), 3u);
  const double tolerance = device_model_error(compute() == "bf16" ? DType::bf16 : DType::f32);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(number(got[i], "loss"), number(want[i], "loss"), tolerance * number(want[i], "loss")) << i;
    EXPECT_NEAR(number(got[i], "grad_norm"), number(want[i], "grad_norm"), tolerance * number(want[i], "grad_norm")) << i;
  }
  EXPECT_THAT(tiny.dir.read("device/environment.json"), HasSubstr("emulated kernels"));
  EXPECT_THAT(tiny.dir.read("device/logs/rank_0.log"), HasSubstr(compute() == "bf16" ? "attention kernel sm80" : "attention kernel plain"));
}

TEST_P(DeviceRuns, DropsTheSameLoraInputsAsTheCpu) {
  if (mode() != "lora") GTEST_SKIP() << "no adapters, no dropout";
  const Sets sets = {{"train.steps", "2"}, {"tuning.lora.drop_probability", "0.4"}};
  run("cpu", "cpu", sets);
  run("device", "cuda", sets);
  run("kept", "cuda", {{"train.steps", "2"}});
  const auto want = tiny.metrics("cpu"), got = tiny.metrics("device"), kept = tiny.metrics("kept");
  ASSERT_EQ(got.size(), 2u);
  const double tolerance = device_model_error(compute() == "bf16" ? DType::bf16 : DType::f32);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(number(got[i], "loss"), number(want[i], "loss"), tolerance * number(want[i], "loss")) << i;
    EXPECT_NEAR(number(got[i], "grad_norm"), number(want[i], "grad_norm"), tolerance * number(want[i], "grad_norm")) << i;
  }
  EXPECT_NE(number(got[0], "grad_norm"), number(kept[0], "grad_norm"));
}

TEST_P(DeviceRuns, ResumeEqualsTheUninterruptedRun) {
  run("whole", "cuda", {{"train.steps", "4"}, {"checkpoint.every", "2"}});
  run("parts", "cuda", {{"train.steps", "2"}, {"checkpoint.every", "2"}});
  run("parts", "cuda", {{"train.steps", "4"}, {"checkpoint.every", "2"}});
  const auto whole = tiny.metrics("whole"), parts = tiny.metrics("parts");
  ASSERT_EQ(whole.size(), 4u);
  ASSERT_EQ(parts.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(lasting(whole[i]), lasting(parts[i]));
}

TEST_P(DeviceRuns, EvaluatesPacksDocumentsAndExports) {
  const Sets sets = {{"train.steps", "2"},
                     {"data.document_mask", "true"},
                     {"data.validation", "[{path: " + (tiny.dir / "validation.bin").string() + ", format: raw_uint16}]"}};
  const std::string lists = "evaluate: {every: 2, attention: as_trained, perplexity: {contexts: [32]}}\n";
  run("cpu", "cpu", sets, lists);
  run("device", "cuda", sets, lists);
  const auto perplexity = [&](const std::string& output) {
    const std::string text = tiny.dir.read(output + "/evaluation.jsonl");
    const size_t begin = text.rfind("{\"context\"");  // of the last line: after the last step
    return number(text.substr(begin, text.rfind("}]}") - begin + 1), "perplexity");
  };
  EXPECT_NEAR(perplexity("device") / perplexity("cpu"), 1, device_model_error(compute() == "bf16" ? DType::bf16 : DType::f32));
  export_run(tiny.dir / "device", {.to = tiny.dir / "merged"});
  EXPECT_TRUE(std::filesystem::exists(tiny.dir / "merged/model.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(tiny.dir / (mode() == "lora" ? "device/adapter" : "device/model")));
}

INSTANTIATE_TEST_SUITE_P(All, DeviceRuns, testing::Combine(testing::Values("lora", "full"), testing::Values("fp32", "bf16")),
                         [](const auto& info) { return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param); });

/// A trainer's parts on a device of choice.
struct OnDevice : TinyTraining {
  explicit OnDevice(const at::Device& device) {
    prepare("lora");
    model_config = parse_model_config(config_json(), "config.json");
    ModelOptions options{.compute = ComputeType::bf16, .tuning = loaded.config.tuning, .device = device};
    model = std::make_unique<LlamaModel>(model_config, plan.rope.after, plan.rope.new_max_position, 32, options);
    model->initialise_base();
    model->initialise_lora();
    reducer = std::make_unique<Reducer>(*alone, model->trainable(), 3, false);
    optimizer = std::make_unique<AdamW>(model->trainable(), loaded.config.optimizer);
  }
};

TEST(DeviceCheckpoint, MovesBetweenDevices) {
  OnDevice from(fake::device()), to(at::kCPU), back(fake::device());
  Trainer trainer = from.trainer();
  trainer.step();
  CheckpointFolder folder(from.tiny.dir / "checkpoints");
  TrainState state{.step = 1, .chain = digest_hex(trainer.progress().chain)};
  save_train_state(folder, *from.model, state);
  const auto found = folder.choose();
  ASSERT_TRUE(found);
  load_train_tensors(*found, *to.model);
  EXPECT_EQ(state_digest(*to.model), state_digest(*from.model));
  CheckpointFolder second(from.tiny.dir / "second");
  save_train_state(second, *to.model, state);
  load_train_tensors(*second.choose(), *back.model);
  EXPECT_EQ(state_digest(*back.model), state_digest(*from.model));
  for (size_t i = 0; i < from.model->trainable().size(); ++i)
    EXPECT_TRUE(back.model->trainable()[i]->weight.cpu().equal(from.model->trainable()[i]->weight.cpu()));
}

TEST(DeviceStep, ANonFiniteStepMovesNothing) {
  OnDevice parts(fake::device());
  Trainer trainer = parts.trainer();
  trainer.step();
  Parameter* poisoned = parts.model->trainable().front();
  poisoned->master.fill_(INFINITY);
  poisoned->weight.copy_(poisoned->master);
  const Digest before = state_digest(*parts.model);
  EXPECT_EQ(trainer.step().outcome, Outcome::skipped);
  EXPECT_EQ(state_digest(*parts.model), before);
}

TEST(DeviceStep, WaitsForLossAndNormAndForTheStateDigest) {
  OnDevice parts(fake::device());
  Trainer trainer = parts.trainer();
  trainer.step();
  const int64_t before = fake::reads();
  trainer.step();
  EXPECT_EQ(fake::reads() - before, 2);
}

TEST(DeviceStep, ReportsThePeakOfThisStepAlone) {
  OnDevice parts(fake::device());
  Trainer trainer = parts.trainer();
  trainer.step();
  constexpr int64_t kMuch = int64_t{64} << 20;
  at::empty({kMuch}, at::TensorOptions().dtype(at::kByte).device(fake::device()));
  EXPECT_GT(memory_now(fake::device()).peak_bytes, kMuch);
  EXPECT_LT(trainer.step().memory_peak_bytes, kMuch);
}

/// The first plan that puts inputs on the host. Its search ends where a model this small has no other left, so the room is given back.
void plan_with_offload(PreparedRun& run) {
  PlanTarget tight = run.within;
  while (run.memory.offload_host_bytes == 0) {
    tight.budget_bytes = run.memory.peak_bytes() - 1;
    run.memory = make_memory_plan(run.base->config, run.config(), run.plan, tight);
  }
}

TEST(DeviceOutOfMemory, HostMemoryThatIsShortLeadsToAPlanWithLessOfIt) {
  install_memory_counter();
  const std::string memory = "device: cuda\nmemory: {host_budget: 64MiB}\n";
  PlannedTraining unhindered(memory);
  const std::string whole = unhindered.planned_trainer().step().hash;

  PlannedTraining run(memory);
  plan_with_offload(run.prepared);
  const int64_t on_host = run.prepared.memory.offload_host_bytes;
  Trainer trainer = run.planned_trainer();
  fail_allocation_after(0);
  EXPECT_EQ(trainer.step().hash, whole);
  fail_allocation_after(-1);
  EXPECT_EQ(memory_count().failed_bytes, on_host);
  EXPECT_EQ(run.step_downs, 1);
  EXPECT_EQ(run.last_short_of, ShortOf::host_memory);
  EXPECT_LT(run.prepared.memory.offload_host_bytes, on_host);
  EXPECT_EQ(trainer.step().step, 2);
}

}  // namespace
}  // namespace longlora
