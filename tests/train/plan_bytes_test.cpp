// What the plan counts as alive all the time is what model, optimizer and gradient tree allocate, to the byte.
#include <gtest/gtest.h>

#include "longlora/model/llama.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/optim/optimizer.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/gradient_tree.h"
#include "train/tiny_run.h"

namespace longlora {
namespace {

int64_t component(const MemoryPlan& plan, std::string_view name) {
  for (const auto& [key, bytes] : plan.host_bytes)
    if (key == name) return bytes;
  return -1;
}

struct Case {
  const char* name;
  void (*change)(TrainConfig::Tuning&);
  ComputeType compute = ComputeType::fp32;
  int64_t shards = 1;
  bool tied = false;
};
class PlanBytes : public testing::TestWithParam<Case> {};

TEST_P(PlanBytes, EqualWhatIsAllocated) {
  const Case& c = GetParam();
  ModelConfig model_config = parse_model_config(tiny_config_json(), "config.json");
  model_config.tied = c.tied;
  TrainConfig config;
  c.change(config.tuning);
  RunPlan run;
  run.sequence_length = 32;
  run.group = 8;
  run.accumulation = run.canonical_shards = c.shards;
  const MemoryPlan plan = make_memory_plan(model_config, config, run, c.compute == ComputeType::bf16 ? 2 : 4, int64_t{1} << 40);

  install_memory_counter();
  const ComponentBytes before = memory_count().live;
  const auto alive = [&](Component c) { return memory_count().live[c] - before[c]; };
  {
    ModelOptions options;
    options.compute = c.compute;
    options.tuning = config.tuning;
    LlamaModel model(model_config, {}, 32, 32, options);
    AdamW optimizer(model.trainable(), config.optimizer);
    for (const Component state : {Component::weights, Component::optimizer_and_gradient})
      EXPECT_EQ(alive(state), component(plan, name_of(state))) << name_of(state);
    GradientTree tree(model.trainable());
    for (int step = 0; step < 2; ++step) {
      tree.begin();
      for (int64_t shard = 0; shard < c.shards; ++shard) tree.open(), tree.close();
      tree.finish();
    }
    EXPECT_EQ(alive(Component::gradient_tree), component(plan, "gradient_tree"));
  }
  EXPECT_EQ(memory_count().live, before);
}

INSTANTIATE_TEST_SUITE_P(
    Tiny, PlanBytes,
    testing::Values(Case{"lora", [](TrainConfig::Tuning&) {}}, Case{"lora_bf16", [](TrainConfig::Tuning&) {}, ComputeType::bf16, 3},
                    Case{"lora_tied", [](TrainConfig::Tuning&) {}, ComputeType::fp32, 7, true},
                    Case{"adapters_alone", [](TrainConfig::Tuning& t) { t.train_norms = t.train_embeddings = false; }},
                    Case{"all_targets",
                         [](TrainConfig::Tuning& t) {
                           t.lora.rank = 3;
                           t.lora.targets = {LoraTarget::q_proj,    LoraTarget::k_proj,  LoraTarget::v_proj,   LoraTarget::o_proj,
                                             LoraTarget::gate_proj, LoraTarget::up_proj, LoraTarget::down_proj};
                           t.train_head = true;
                         },
                         ComputeType::fp32, 8},
                    Case{"full", [](TrainConfig::Tuning& t) { t.mode = TuningMode::full; }, ComputeType::fp32, 13},
                    Case{"full_bf16", [](TrainConfig::Tuning& t) { t.mode = TuningMode::full; }, ComputeType::bf16, 2},
                    Case{"full_tied", [](TrainConfig::Tuning& t) { t.mode = TuningMode::full; }, ComputeType::fp32, 1, true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace longlora
