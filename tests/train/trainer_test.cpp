#include "longlora/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "longlora/checkpoint/train_state.h"
#include "longlora/config/config_io.h"
#include "longlora/core/json.h"
#include "support/error_of.h"
#include "train/tiny_training.h"

namespace longlora {
namespace {

using testing::HasSubstr;

TEST(AttentionAt, IsAFunctionOfTheStepNumber) {
  TrainConfig config;
  config.attention.full_steps = 3;
  RunPlan plan;
  plan.group = 8;
  plan.total_steps = 10;
  for (int64_t step = 0; step < 12; ++step) {
    const AttentionSettings settings = attention_at(config, plan, step);
    EXPECT_EQ(settings.kind, step < 7 ? AttentionKind::s2 : AttentionKind::full) << step;
    EXPECT_EQ(settings.group, step < 7 ? 8 : 0) << step;
  }
  config.attention.full_steps = 0;
  EXPECT_EQ(attention_at(config, plan, 9).kind, AttentionKind::s2);
  config.attention.kind = AttentionKind::full;
  EXPECT_EQ(attention_at(config, plan, 0).kind, AttentionKind::full);
}

class Training : public testing::Test, protected TinyTraining {};

TEST_F(Training, LossFallsAndReportsAreConsistent) {
  prepare("full");  // a frozen random head would leave little to learn
  Trainer t = trainer();
  const StepReport first = t.step();
  EXPECT_EQ(first.step, 1);
  EXPECT_EQ(first.tokens, 96);
  EXPECT_EQ(first.rows, 3u);
  EXPECT_NEAR(first.loss, std::log(static_cast<double>(kTinyVocab)), 0.5);
  StepReport last;
  for (int i = 0; i < 40; ++i) last = t.step();
  EXPECT_LT(last.loss, first.loss - 0.5);
  EXPECT_EQ(last.first_row, 120u);
  EXPECT_EQ(t.progress().applied_steps, 41);
}

TEST_F(Training, NonFiniteStopChangesNothingAndNamesTheTensor) {
  prepare();
  loaded.config.nonfinite_action = NonFiniteAction::stop;
  Trainer t = trainer();
  t.step();
  Parameter* poisoned = model->trainable().front();
  poisoned->master.fill_(std::nanf(""));
  poisoned->weight.copy_(poisoned->master);
  const Digest before = state_digest(*model);
  const std::string hash = digest_hex(t.progress().chain);
  const auto error = thrown_by([&] { t.step(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::numeric);
  EXPECT_THAT(error->what_happened, HasSubstr("\"nan\""));
  EXPECT_THAT(error->where, HasSubstr("rank 0 step 2"));
  EXPECT_EQ(state_digest(*model), before);
  EXPECT_EQ(digest_hex(t.progress().chain), hash);
  EXPECT_EQ(t.progress().cursor.next_row, 3u);
  const JsonValue note = parse_json(tiny.dir.read("nonfinite-2.json"), "nonfinite-2.json");
  EXPECT_EQ(note.find("last_losses")->array()->size(), 1u);
  EXPECT_EQ(note.find("rows")->array()->at(0).unsigned_integer(), 3u);
}

TEST_F(Training, SkipMovesTheCursorOnlyAndAtMostThreeTimes) {
  prepare();
  Trainer t = trainer();
  t.step();
  Parameter* poisoned = model->trainable().front();
  const at::Tensor good = poisoned->master.clone();
  poisoned->master.fill_(INFINITY);
  poisoned->weight.copy_(poisoned->master);
  const Digest before = state_digest(*model);
  for (uint64_t i = 1; i <= 3; ++i) {
    const StepReport report = t.step();
    EXPECT_EQ(report.outcome, Outcome::skipped);
    EXPECT_EQ(report.step, 2);
    EXPECT_EQ(t.progress().step, 1);
    EXPECT_EQ(t.progress().cursor.next_row, 3 + 3 * i);
    EXPECT_EQ(t.progress().cursor.skipped.back(), (std::pair<uint64_t, uint64_t>{3 * i, 3 * i + 3}));
  }
  EXPECT_EQ(state_digest(*model), before);
  EXPECT_THAT(error_of([&] { t.step(); }), HasSubstr("3 steps skipped already in the last 100"));
}

TEST_F(Training, RunTellsObserversAndStopsAfterAWholeStep) {
  prepare();
  struct Recorder : Observer {
    std::string calls;
    void before_first_step() override { calls += "b"; }
    void after_step(const StepReport& r) override { calls += std::to_string(r.step); }
    void after_last_step() override { calls += "e"; }
  } recorder;
  Trainer t = trainer();
  int polls = 0;
  EXPECT_FALSE(t.run({&recorder}, [&] { return polls++ == 3; }));
  EXPECT_EQ(recorder.calls, "b123e");
}

}  // namespace
}  // namespace longlora
