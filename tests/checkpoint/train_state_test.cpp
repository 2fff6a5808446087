#include "longlora/checkpoint/train_state.h"

#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/state_json.h"
#include "checkpoint/tiny_model.h"
#include "longlora/core/error.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;

TrainState some_state() {
  return {.step = 41,
          .applied_steps = 40,
          .next_row = 1ull << 63,
          .skipped_rows = {{3, 5}, {9, 10}},
          .targets_seen = 12345,
          .chain = "ab01",
          .metrics_bytes = 987,
          .config_json = "{\"a\":\"b\"}",
          .frozen_digest = "ff",
          .identity = {{"weights", "1"}, {"data", "2"}},
          .fingerprint = {{"libtorch", "2.11"}},
          .lineage = {{7, "optimizer.learning_rate", "1e-4", "2e-4"}}};
}

TEST(StateJson, PrintsAndParsesToTheSame) {
  const std::string text = print_state(some_state());
  const TrainState parsed = parse_state(text, "S");
  EXPECT_EQ(print_state(parsed), text);
  EXPECT_EQ(parsed.next_row, 1ull << 63);
  EXPECT_EQ(parsed.skipped_rows.at(1).second, 10u);
  EXPECT_EQ(parsed.lineage.at(0).new_value, "2e-4");
  EXPECT_EQ(print_state(parse_state(print_state({}), "S")), print_state({}));
}

TEST(StateJson, KnowsEveryKey) {
  const std::string good = print_state(some_state());
  const struct {
    std::string from, to, message;
  } cases[] = {
      {"\"step\": 41", "\"step\": -1", "step is not an unsigned integer"},
      {"\"step\": 41", "\"step\": 9223372036854775808", "step is not below 2^63"},
      {"\"chain\": \"ab01\",", "", "chain is not present"},
      {"\"chain\"", "\"more\": 1, \"chain\"", "more is not absent (unknown key)"},
      {"[3, 5]", "[3]", "skipped_rows is not a list of pairs"},
      {"\"key\"", "\"kez\"", "key is not present"},
      {"\"weights\": \"1\"", "\"weights\": 1", "identity is not an object of strings"},
  };
  for (const auto& c : cases) {
    std::string text = good;
    text.replace(text.find(c.from), c.from.size(), c.to);
    EXPECT_THAT(error_of([&] { parse_state(text, "S"); }), HasSubstr(c.message)) << c.to;
  }
  std::string newer = good;
  newer.replace(newer.find("\"format\": 1"), 11, "\"format\": 9");
  EXPECT_EQ(kind_of([&] { parse_state(newer, "S"); }), ErrorKind::mismatch);
  EXPECT_THAT(error_of([&] { parse_state(newer, "S"); }), HasSubstr("train state format 9, this program reads format 1"));
}

struct TrainStateOnDisk : testing::Test {
  TempDir dir;
  BaseModel base{make_tiny(dir, "base")};

  std::unique_ptr<LlamaModel> trained(const TrainConfig::Tuning& tuning, ComputeType compute) {
    auto model = make_model(base.config, tuning, compute);
    load_base_weights(*model, base, true);
    disturb(*model);
    for (Parameter* p : model->trainable()) {
      p->adam_m = p->master.mul(0.5);
      p->adam_v = p->master.mul(p->master);
    }
    return model;
  }
};

TEST_F(TrainStateOnDisk, RestoresEveryBit) {
  for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
    for (const auto& tuning : {lora_tuning(), full_tuning()}) {
      const auto model = trained(tuning, compute);
      CheckpointFolder folder(dir / "checkpoints" / std::to_string(int(compute)) / std::to_string(int(tuning.mode)));
      save_train_state(folder, *model, some_state());
      const auto found = folder.choose();
      ASSERT_TRUE(found);
      EXPECT_EQ(read_train_state(*found).targets_seen, 12345);
      const auto other = make_model(base.config, tuning, compute);
      load_base_weights(*other, base, true);
      EXPECT_NE(state_digest(*other), state_digest(*model));
      load_train_tensors(*found, *other);
      EXPECT_EQ(state_digest(*other), state_digest(*model));
      EXPECT_EQ(masters_of(*other), masters_of(*model));
      for (Parameter* p : other->trainable()) EXPECT_TRUE(p->weight.equal(p->master.to(p->weight.scalar_type()))) << p->name;
    }
  }
}

TEST_F(TrainStateOnDisk, SameStateGivesTheSameBytes) {
  const auto model = trained(lora_tuning(), ComputeType::fp32);
  CheckpointFolder a(dir / "a"), b(dir / "b");
  save_train_state(a, *model, some_state());
  save_train_state(b, *model, some_state());
  for (const char* name : {"MANIFEST.json", "state.json", "state-00001-of-00001.safetensors"}) {
    const std::string file = std::string("step-0000000041/") + name;
    EXPECT_EQ(dir.read("a/" + file), dir.read("b/" + file));
    EXPECT_FALSE(dir.read("a/" + file).empty());
  }
}

TEST_F(TrainStateOnDisk, OtherTrainablesAreRefusedByName) {
  const auto model = trained(lora_tuning(4), ComputeType::fp32);
  CheckpointFolder folder(dir / "checkpoints");
  save_train_state(folder, *model, some_state());
  const auto found = *folder.choose();
  const auto other_rank = make_model(base.config, lora_tuning(2));
  EXPECT_THAT(error_of([&] { load_train_tensors(found, *other_rank); }), HasSubstr("got F32 [4, 24], expected F32 [2, 24]"));
  const auto full = make_model(base.config, full_tuning());
  EXPECT_THAT(error_of([&] { load_train_tensors(found, *full); }), HasSubstr("the model has no such trainable tensor"));
  TrainConfig::Tuning more = lora_tuning(4);
  more.lora.targets.push_back(LoraTarget::up_proj);
  const auto wider = make_model(base.config, more);
  EXPECT_THAT(error_of([&] { load_train_tensors(found, *wider); }),
              HasSubstr("12 tensors are missing, first model.layers.0.mlp.up_proj.lora_A.weight"));
}

TEST_F(TrainStateOnDisk, DigestSeesOneBitAndTheOrder) {
  const auto model = trained(lora_tuning(), ComputeType::fp32);
  const Digest before = state_digest(*model);
  Parameter& p = *model->trainable().front();
  auto* bits = reinterpret_cast<uint32_t*>(p.adam_v.data_ptr<float>());
  bits[p.adam_v.numel() - 1] ^= 1;
  EXPECT_NE(state_digest(*model), before);
  bits[p.adam_v.numel() - 1] ^= 1;
  EXPECT_EQ(state_digest(*model), before);
  float* values = p.master.data_ptr<float>();
  std::swap(values[0], values[1]);
  EXPECT_NE(state_digest(*model), before);
}

}  // namespace
}  // namespace longlora
