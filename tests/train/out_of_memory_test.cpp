// Allocation failures inside a step: the step runs again with a cheaper policy and gives the same bits, or ends cleanly.
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <new>

#include "longlora/checkpoint/train_state.h"
#include "train/tiny_training.h"

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

TEST(OutOfMemory, EveryFailedAllocationOfAStepIsSurvivedWithTheSameBits) {
  FailingAllocator memory;
  TinyTraining run;
  run.prepare();
  std::string whole;
  {
    Trainer trainer = run.trainer();
    memory.armed = true;
    whole = trainer.step().hash;
    memory.armed = false;
  }
  const int64_t allocations = memory.count;
  ASSERT_GT(allocations, 10);
  for (int64_t k = 1; k <= allocations; ++k) {
    run.prepare();
    int step_downs = 0;
    Trainer trainer = run.trainer([&] {
      ++step_downs;
      run.model->set_policies(std::vector<LayerPolicy>(2, KeepPolicy::checkpoint));
      return true;
    });
    memory.count = 0;
    memory.fail_at = k;
    memory.armed = true;
    EXPECT_EQ(trainer.step().hash, whole) << "allocation " << k << " of " << allocations;
    memory.armed = false;
    EXPECT_EQ(step_downs, 1) << k;
  }
}

TEST(OutOfMemory, StopEndsTheStepWithNothingMoved) {
  FailingAllocator memory;
  TinyTraining run;
  run.prepare();
  run.loaded.config.memory.on_oom = OnOom::stop;
  const Digest before = state_digest(*run.model);
  Trainer trainer = run.trainer([] { return true; });
  memory.fail_at = 5;
  memory.armed = true;
  EXPECT_THROW(trainer.step(), std::bad_alloc);
  memory.armed = false;
  EXPECT_EQ(state_digest(*run.model), before);
  EXPECT_EQ(trainer.progress().step, 0);
}

}  // namespace
}  // namespace longlora
