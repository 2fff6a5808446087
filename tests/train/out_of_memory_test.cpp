// Memory that runs out: inside a step it runs again with a cheaper policy and gives the same bits, or ends cleanly; at the start of a run
// it ends with one sentence and harms nothing; below the plan's bytes a run is refused, at them it runs.
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longlora/checkpoint/train_state.h"
#include "longlora/core/text.h"
#include "longlora/ops/memory_counter.h"
#include "longlora/train/prepare.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"
#include "train/planned_training.h"

namespace longlora {
namespace {

using testing::HasSubstr;

class OutOfMemory : public testing::Test {
 protected:
  OutOfMemory() { install_memory_counter(); }
  ~OutOfMemory() override {
    fail_allocation_after(-1);
    set_memory_limit(0);
  }
};

TEST_F(OutOfMemory, EveryFailedAllocationOfAStepIsSurvivedWithTheSameBits) {
  TinyTraining run;
  run.prepare();
  std::string whole;
  int64_t allocations = 0;
  {
    Trainer trainer = run.trainer();
    mark_memory();
    const StepReport report = trainer.step();
    whole = report.hash;
    allocations = report.tensors.allocations;
  }
  ASSERT_GT(allocations, 10);
  for (int64_t k = 0; k < allocations; ++k) {
    run.prepare();
    int step_downs = 0;
    Trainer trainer = run.trainer([&](ShortOf) {
      ++step_downs;
      run.model->set_policies(std::vector<LayerPolicy>(2, KeepPolicy::checkpoint));
      return true;
    });
    fail_allocation_after(k);
    EXPECT_EQ(trainer.step().hash, whole) << "allocation " << k << " of " << allocations;
    fail_allocation_after(-1);
    EXPECT_EQ(step_downs, 1) << k;
  }
}

TEST_F(OutOfMemory, TheRunGoesOnWithACheaperPlanOfTheSameBits) {
  std::vector<std::string> whole;
  int64_t most = 0;
  {
    PlannedTraining run;
    Trainer trainer = run.planned_trainer();
    whole.push_back(trainer.step().hash);
    const StepReport second = trainer.step();
    whole.push_back(second.hash);
    most = second.tensors.peak_bytes;
    ASSERT_EQ(run.step_downs, 0);
  }
  for (const int64_t k : {0, 3, 20}) {
    PlannedTraining run;
    const int64_t planned = run.prepared.memory.peak_bytes();
    Trainer trainer = run.planned_trainer();
    fail_allocation_after(k);
    EXPECT_EQ(trainer.step().hash, whole[0]) << k;
    fail_allocation_after(-1);
    EXPECT_EQ(run.step_downs, 1) << k;
    EXPECT_LT(run.prepared.memory.peak_bytes(), planned) << k;
    const StepReport second = trainer.step();
    EXPECT_EQ(second.hash, whole[1]) << k;
    EXPECT_LT(second.tensors.peak_bytes, most) << k;
    EXPECT_EQ(run.step_downs, 1) << k;
  }
}

/// Only one allocation of the process fails, so only one rank does.
TEST_F(OutOfMemory, OneRankThatRunsOutTakesAllRanksToACheaperPlan) {
  const auto chains_after = [](int64_t failing) {
    std::vector<std::string> chains(2);
    test::run_ranks(2, [&](dist::Communicator& ranks) {
      at::set_num_threads(1);
      PlannedTraining run(ranks, 4);
      const int64_t planned = run.prepared.memory.peak_bytes();
      Trainer trainer = run.planned_trainer();
      ranks.barrier({});
      if (ranks.rank() == 0) fail_allocation_after(failing);
      ranks.barrier({});
      trainer.step();
      EXPECT_EQ(run.step_downs, failing < 0 ? 0 : 1) << ranks.rank();
      EXPECT_EQ(run.prepared.memory.peak_bytes() < planned, failing >= 0) << ranks.rank();
      chains[static_cast<size_t>(ranks.rank())] = trainer.step().hash;
    });
    fail_allocation_after(-1);
    EXPECT_EQ(chains[0], chains[1]);
    return chains[0];
  };
  const std::string whole = chains_after(-1);
  for (const int64_t failing : {0, 7, 30}) EXPECT_EQ(chains_after(failing), whole) << failing;
}

TEST_F(OutOfMemory, StopEndsTheStepWithNothingMoved) {
  TinyTraining run;
  run.prepare();
  run.loaded.config.memory.on_oom = OnOom::stop;
  const Digest before = state_digest(*run.model);
  Trainer trainer = run.trainer([](ShortOf) { return true; });
  fail_allocation_after(4);
  EXPECT_THROW(trainer.step(), c10::Error);
  fail_allocation_after(-1);
  EXPECT_EQ(state_digest(*run.model), before);
  EXPECT_EQ(trainer.progress().step, 0);
}

/// Exit code and what was printed to stderr.
std::pair<int, std::string> outcome_of(const TrainRequest& request) {
  testing::internal::CaptureStderr();
  const int code = run_guarded([&] { return run_training(request); });
  return {code, testing::internal::GetCapturedStderr()};
}

/// The same folder is used by all the failing runs, so that what one of them left behind would show in the last, which succeeds.
TEST_F(OutOfMemory, EveryFailedAllocationOfARunEndsItWithOneSentence) {
  TinyRun tiny;
  const std::string fixed = "memory: {policy: save_all}\n";  // nothing less may be kept: every failure ends the run
  const std::vector<std::pair<std::string, std::string>> one_step = {{"train.steps", "1"}, {"log.tensorboard", "false"}};
  mark_memory();
  run_training(tiny.request(tiny.yaml("lora", "whole", fixed), one_step));
  const TrainRequest request = tiny.request(tiny.yaml("lora", "out", fixed), one_step);
  int failures = 0;
  for (int64_t k = 0;; k += k < 60 ? 1 : 11) {  // the model is made within the first ones
    fail_allocation_after(k);
    const auto [code, printed] = outcome_of(request);
    fail_allocation_after(-1);
    if (code == 0) break;
    ++failures;
    ASSERT_EQ(code, 71) << k << ": " << printed;
    const std::vector<std::string> lines = split(printed, '\n');
    const std::string& line = lines.at(lines.size() - 2);
    ASSERT_THAT(line, HasSubstr("longlora-train: error[memory]: ")) << k;
    ASSERT_THAT(line, HasSubstr("could not be allocated beside ")) << k;
    ASSERT_THAT(line, HasSubstr("; the plan was ")) << k;
    ASSERT_THAT(line, HasSubstr("memory.host_budget below ")) << k;
    ASSERT_LE(line.size(), 240u) << k;
  }
  EXPECT_GT(failures, 60);
  EXPECT_EQ(lasting(tiny.metrics("out").back()), lasting(tiny.metrics("whole").back()));
}

/// Its two matrices are in no plan.
TEST_F(OutOfMemory, TheProductRateIsMeasuredWhileNothingElseIsThere) {
  constexpr int64_t kMatrix = 768 * 768 * 4;
  TinyRun tiny;
  const TrainRequest request = tiny.request(tiny.yaml("lora", "out", "device: cpu\n"), {{"train.steps", "1"}});
  const int64_t before = memory_count().live_bytes;
  for (int64_t k = 0; k < 100; ++k) {
    fail_allocation_after(k);
    const int code = outcome_of(request).first;
    fail_allocation_after(-1);
    ASSERT_EQ(code, 71) << k;
    if (memory_count().failed_bytes != kMatrix) continue;
    EXPECT_EQ(memory_count().live_bytes_at_failure, before);
    return;
  }
  FAIL() << "no matrix of that size";
}

TEST_F(OutOfMemory, ALimitIsRefusedBeforeTheStartOrKept) {
  TinyTraining run;
  run.prepare();
  const auto plan_within = [&](int64_t budget) { return make_memory_plan(run.model_config, run.loaded.config, run.plan, 4, budget); };
  const int64_t most = plan_within(int64_t{1} << 40).peak_bytes();
  std::string whole = run.trainer().step().hash;
  int refused = 0, ran = 0;
  for (int64_t part = 0; part <= 32; ++part) {
    const int64_t budget = most * part / 32;
    std::optional<MemoryPlan> memory;
    const std::optional<Error> refusal = thrown_by([&] { memory = plan_within(budget); });
    if (refusal) {
      EXPECT_EQ(refusal->kind, ErrorKind::memory);
      EXPECT_EQ(ran, 0) << "refused at " << budget << ", though less was enough";
      ++refused;
      continue;
    }
    run.reducer.reset(), run.optimizer.reset(), run.model.reset();
    set_memory_limit(memory_count().live_bytes + budget / 100 * 103);
    run.prepare();
    run.memory = &*memory;
    EXPECT_EQ(run.trainer().step().hash, whole) << budget;
    set_memory_limit(0);
    run.memory = nullptr;
    ++ran;
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(ran, 1);
}

}  // namespace
}  // namespace longlora
