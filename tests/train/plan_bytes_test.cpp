// What the plan counts as alive all the time is what model, optimizer and gradient tree allocate, to the byte.
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "longlora/model/llama.h"
#include "longlora/optim/optimizer.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/gradient_tree.h"
#include "train/tiny_run.h"

namespace longlora {
namespace {

/// LibTorch's allocator, counting what is alive of what it gave.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() { c10::SetCPUAllocator(this, 1); }
  ~CountingAllocator() override { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), 1); }
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr inner = c10::GetDefaultCPUAllocator()->allocate(bytes);
    alive += static_cast<int64_t>(bytes);
    void* const data = inner.get();
    const c10::Device device = inner.device();
    auto* block = new Block{std::move(inner), static_cast<int64_t>(bytes)};
    return {data, block, &free_block, device};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  static inline std::atomic<int64_t> alive{0};

 private:
  struct Block {
    c10::DataPtr data;
    int64_t bytes;
  };
  static void free_block(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    alive -= block->bytes;
  }
};

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

  CountingAllocator memory;
  const int64_t before = CountingAllocator::alive;
  {
    ModelOptions options;
    options.compute = c.compute;
    options.tuning = config.tuning;
    LlamaModel model(model_config, {}, 32, 32, options);
    AdamW optimizer(model.trainable(), config.optimizer);
    EXPECT_EQ(CountingAllocator::alive - before, component(plan, "weights") + component(plan, "optimizer_and_gradient"));
    const int64_t state = CountingAllocator::alive;
    GradientTree tree(model.trainable());
    for (int step = 0; step < 2; ++step) {
      tree.begin();
      for (int64_t shard = 0; shard < c.shards; ++shard) tree.open(), tree.close();
      tree.finish();
    }
    EXPECT_EQ(CountingAllocator::alive - state, component(plan, "gradient_tree"));
  }
  EXPECT_EQ(CountingAllocator::alive, before);
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
