// Allocation failures inside a step: the step runs again with a cheaper policy and gives the same bits, or ends cleanly.
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <new>

#include "longlora/checkpoint/train_state.h"
#include "longlora/config/config_io.h"
#include "longlora/train/trainer.h"
#include "train/tiny_run.h"

namespace longlora {
namespace {

/// LibTorch's allocator, except that the chosen allocation of a tensor fails.
class FailingAllocator final : public c10::Allocator {
 public:
  FailingAllocator() { c10::SetCPUAllocator(this, 1); }
  ~FailingAllocator() override { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), 1); }
  c10::DataPtr allocate(size_t bytes) override {
    if (armed && ++count == fail_at) throw std::bad_alloc();
    return c10::GetDefaultCPUAllocator()->allocate(bytes);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  int64_t count = 0, fail_at = 0;
  bool armed = false;
};

struct SmallRun {
  explicit SmallRun(OnOom on_oom) {
    loaded = parse_config(tiny.yaml("lora", "out"), "run.yaml");
    loaded.config.memory.on_oom = on_oom;
    const ModelConfig model_config = parse_model_config(tiny_config_json(), "config.json");
    plan = make_run_plan(loaded.config, model_config);
    plan.total_steps = 2;
    model = std::make_unique<LlamaModel>(model_config, plan.rope.after, plan.rope.new_max_position, 32,
                                         ModelOptions{.tuning = loaded.config.tuning});
    model->initialise_base();
    model->initialise_lora();
    model->set_keep_policies(std::vector<KeepPolicy>(2, KeepPolicy::save_all));
    data = std::make_unique<Dataset>(loaded.config.data.train,
                                     DatasetOptions{.sequence_length = 32, .vocab_size = kTinyVocab, .data = loaded.config.data});
    loader = std::make_unique<BatchLoader>(*data, Sampler({.rows = {data->rows(0)}}), 3, 1, 0, 3, 1);
    optimizer = std::make_unique<AdamW>(model->trainable(), loaded.config.optimizer);
    trainer = std::make_unique<Trainer>(Trainer::Parts{*model,
                                                       *loader,
                                                       *optimizer,
                                                       loaded.config,
                                                       plan,
                                                       {},
                                                       [this] {
                                                         ++step_downs;
                                                         model->set_keep_policies(std::vector<KeepPolicy>(2, KeepPolicy::checkpoint));
                                                         return true;
                                                       }},
                                        Progress{});
  }
  TinyRun tiny;
  LoadedConfig loaded;
  RunPlan plan;
  std::unique_ptr<LlamaModel> model;
  std::unique_ptr<Dataset> data;
  std::unique_ptr<BatchLoader> loader;
  std::unique_ptr<AdamW> optimizer;
  std::unique_ptr<Trainer> trainer;
  int step_downs = 0;
};

TEST(OutOfMemory, EveryFailedAllocationOfAStepIsSurvivedWithTheSameBits) {
  FailingAllocator memory;
  std::string whole;
  int64_t allocations = 0;
  {
    SmallRun run(OnOom::step_down);
    memory.armed = true;
    whole = run.trainer->step().hash;
    memory.armed = false;
    allocations = memory.count;
  }
  ASSERT_GT(allocations, 10);
  for (int64_t k = 1; k <= allocations; ++k) {
    SmallRun run(OnOom::step_down);
    memory.count = 0;
    memory.fail_at = k;
    memory.armed = true;
    EXPECT_EQ(run.trainer->step().hash, whole) << "allocation " << k << " of " << allocations;
    memory.armed = false;
    EXPECT_EQ(run.step_downs, 1) << k;
  }
}

TEST(OutOfMemory, StopEndsTheStepWithNothingMoved) {
  FailingAllocator memory;
  SmallRun run(OnOom::stop);
  const Digest before = state_digest(*run.model);
  memory.fail_at = 5;
  memory.armed = true;
  EXPECT_THROW(run.trainer->step(), std::bad_alloc);
  memory.armed = false;
  EXPECT_EQ(state_digest(*run.model), before);
  EXPECT_EQ(run.step_downs, 0);
  EXPECT_EQ(run.trainer->progress().step, 0);
}

}  // namespace
}  // namespace longlora
