// What people and programs read of a plan.
#include "longlora/plan/plan_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longlora/core/json.h"
#include "plan/published_models.h"

namespace longlora {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Asked {
  TrainConfig config;
  RunPlan run = one_row(8192);
  PlanTarget target = gpu_gib(76);
  std::optional<Rates> rates;
  PlanReport report() const {
    const Rates by = rates.value_or(default_rates(target));
    return report_plan(llama2_7b(), config, run, target, make_memory_plan(llama2_7b(), config, run, target, by), by);
  }
  std::string text() const { return plan_text(report()); }
  JsonValue json() const { return parse_json(plan_json(report()), "plan"); }
};

std::string string_of(const JsonValue& json, std::string_view key) {
  const JsonValue* value = json.find(key);
  return value != nullptr && value->string() != nullptr ? *value->string() : "";
}

TEST(PlanReport, SaysWhatItPlannedFor) {
  Asked asked;
  PlanReport report = asked.report();
  report.budget_source = "--device-memory", report.host_source = "--host-memory";
  EXPECT_THAT(plan_text(report), HasSubstr("for        GPU, bf16, 76.0 GiB (--device-memory), host memory 0.0 GiB (--host-memory)\n"));
  EXPECT_EQ(string_of(asked.json(), "device"), "cuda");
  EXPECT_EQ(string_of(asked.json(), "dtype"), "bf16");
  EXPECT_EQ(string_of(asked.json(), "attention"), "s2");
  asked.target = {PlanTarget::Device::cpu, 4, in_bytes(200)};
  EXPECT_THAT(asked.text(), HasSubstr("for        CPU, fp32, 200.0 GiB\n"));
  EXPECT_EQ(string_of(asked.json(), "device"), "cpu");
  EXPECT_EQ(string_of(asked.json(), "dtype"), "fp32");
}

TEST(PlanReport, FullAttentionHasNoGroup) {
  Asked asked;
  EXPECT_THAT(asked.text(), HasSubstr("attention  s2, group 2048 tokens of 8192\n"));
  asked.config.attention.kind = AttentionKind::full;
  asked.run.group = 0;
  EXPECT_THAT(asked.text(), HasSubstr("attention  full, 8192 tokens\n"));
  EXPECT_THAT(asked.text(), Not(HasSubstr("group")));
}

TEST(PlanReport, TheLongestContextIsSaidWhenItWasAskedFor) {
  EXPECT_EQ(longest_text({}), "");
  EXPECT_EQ(longest_text({.tokens = 0}), "largest context: none\n");
  EXPECT_EQ(longest_text({.tokens = 4096, .without_host = 0}), "largest context: 4096 tokens, none without host memory\n");
  EXPECT_EQ(longest_text({.tokens = 4096, .without_host = 4096}), "largest context: 4096 tokens\n");
  PlanReport report = Asked{}.report();
  EXPECT_THAT(plan_json(report), HasSubstr("\"max_context\": null, \"max_context_without_host\": null"));
  report.longest = {.tokens = 34560, .without_host = 0};
  EXPECT_THAT(plan_json(report), HasSubstr("\"max_context\": 34560, \"max_context_without_host\": 0"));
  EXPECT_EQ(refusal_json({.sequence_length = 8192, .refused = "needs 2.0 GiB", .longest = {.tokens = 0}}),
            R"({"sequence_length": 8192, "refused": "needs 2.0 GiB", "max_context": 0, "max_context_without_host": null})");
}

TEST(PlanReport, AWholeRunIsTheSumOfItsSteps) {
  Asked asked;
  EXPECT_THAT(asked.text(), Not(HasSubstr("run        ")));
  EXPECT_TRUE(asked.json().find("run_seconds")->is_null());
  asked.config.train.steps = 1000;
  PlanReport report = asked.report();
  EXPECT_NEAR(report.run_seconds(), 1000 * report.time.total(), 1e-6);
  report.time = {.products = 751};
  EXPECT_THAT(plan_text(report), HasSubstr("run        751 s x 1000 steps = 8.7 days, without evaluations"));
  asked.config.attention.full_steps = 100;
  report = asked.report();
  EXPECT_NEAR(report.run_seconds(), 900 * report.time.total() + 100 * report.full_attention_time->total(), 1e-6);
  EXPECT_THAT(plan_text(report), testing::ContainsRegex("run        0.* s x 900 steps \\+ 0.* s x 100 with full attention = .* minutes"));
}

TEST(PlanReport, SharesSayOfWhatAndPoliciesByWhichRates) {
  Asked asked;
  asked.rates = default_rates(asked.target);
  asked.rates->peak_kind = PeakKind::printed;
  asked.rates->source = "of a test";
  EXPECT_THAT(asked.text(), HasSubstr("% of 989 TFLOP/s, the card's\n"));
  EXPECT_EQ(string_of(*asked.json().find("rates"), "peak_source"), "printed");
  EXPECT_EQ(string_of(asked.json(), "search_rates"), "of a test");
}

TEST(PlanReport, ASlowLinkIsExposed) {
  Asked asked;
  asked.config.memory.policy = MemoryPolicy::checkpoint_offload;
  asked.target = gpu_gib(76, 120);
  EXPECT_THAT(asked.text(), HasSubstr("exposed copies 0 "));
  asked.rates = default_rates(asked.target);
  asked.rates->link = 1e9;
  EXPECT_THAT(asked.text(), testing::ContainsRegex("exposed copies [1-9]"));
}

TEST(PlanReport, AnUnknownRateBetweenRanksIsSaid) {
  Asked asked;
  asked.run.ranks = 4, asked.run.canonical_shards = 4;
  EXPECT_THAT(asked.text(), Not(HasSubstr("not counted")));
  asked.rates = default_rates(asked.target);
  asked.rates->peers = 0;
  EXPECT_THAT(asked.text(), HasSubstr("exchange   between ranks not counted: no rate of the link between ranks"));
  asked.run.ranks = 1, asked.run.canonical_shards = 1;
  EXPECT_THAT(asked.text(), Not(HasSubstr("not counted")));
}

TEST(PlanTable, ALengthThatTheConfigurationMakesImpossibleIsARow) {
  PlanRow possible{.sequence_length = 8192, .plan = Asked{}.report()};
  const PlanRow large{.sequence_length = 16384, .refused = "needs 2.0 GiB, 1.0 GiB may be used"};
  const PlanRow impossible{.sequence_length = 4096, .refused = "layers cannot be streamed", .is_misconfigured = true};
  const std::string text = plan_table_text({impossible, possible, large});
  EXPECT_THAT(text, HasSubstr("     4096 refused: layers cannot be streamed\n"));
  EXPECT_THAT(text, HasSubstr("    16384 does not fit: needs 2.0 GiB"));
  EXPECT_THAT(text, HasSubstr("\nfor: GPU, bf16, 76.0 GiB"));
}

}  // namespace
}  // namespace longlora
