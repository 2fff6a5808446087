#include <gtest/gtest.h>

#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/train/observers.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

TEST(Metrics, UtilisationIsThatOfThePlanInForce) {
  const TempDir dir;
  MemoryPlan plan;
  plan.flops = {.model = 100, .hardware = 110};
  plan.full_attention_flops = {.model = 200, .hardware = 220};
  MetricsObserver metrics(dir / "metrics.jsonl", 0, plan, /*peak_flops_per_second=*/1000);
  StepReport report{.step = 1, .tokens = 5, .attention = AttentionKind::s2, .seconds = 1};
  metrics.after_step(report);
  plan.flops.hardware = 140;  // after a step down more is computed again
  metrics.after_step(report);
  report.attention = AttentionKind::full;
  metrics.after_step(report);
  const std::vector<std::string> lines = split(dir.read("metrics.jsonl"), '\n');
  const auto number = [&](size_t line, const char* key) { return *parse_json(lines.at(line), "metrics").find(key)->number(); };
  EXPECT_NEAR(number(0, "hfu"), 0.55, 1e-9);
  EXPECT_NEAR(number(1, "hfu"), 0.70, 1e-9);
  EXPECT_NEAR(number(1, "mfu"), 0.50, 1e-9);
  EXPECT_NEAR(number(2, "hfu"), 1.10, 1e-9);
}

}  // namespace
}  // namespace longlora
