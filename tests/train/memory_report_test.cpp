// memory.json: rows of plan and count, when it is written, and the last words of a run without memory.
#include "longlora/train/memory_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

MemoryPlan plan_of_1000() {
  MemoryPlan plan;
  plan.layer_policy = {KeepPolicy::checkpoint};
  plan.host_bytes = {{"weights", 500}, {"kept_activations", 300}, {"layer_workspace", 150}, {"tables", 50}, {"runtime", 0},
                     {"total", 1000}};
  plan.device_bytes = {{"total", 0}};
  return plan;
}

StepReport report_of(int64_t step, int64_t weights, int64_t activations) {
  StepReport report{.step = step};
  report.tensors.at_peak[Component::weights] = report.tensors.own_peak[Component::weights] = weights;
  report.tensors.at_peak[Component::activations] = report.tensors.own_peak[Component::activations] = activations;
  report.tensors.peak_bytes = weights + activations;
  return report;
}

const MemoryRow& row_named(const std::vector<MemoryRow>& rows, std::string_view name) {
  return *std::find_if(rows.begin(), rows.end(), [&](const MemoryRow& row) { return row.name == name; });
}

TEST(MemoryRows, AddUpAndBelongToComponents) {
  const std::vector<MemoryRow> rows = memory_rows(plan_of_1000(), report_of(1, 500, 440).tensors, std::nullopt);
  EXPECT_EQ(rows.size(), kNumComponents + 1);
  EXPECT_EQ(row_named(rows, "weights").difference_percent(), 0.0);
  EXPECT_EQ(row_named(rows, "activations").planned_bytes, 450);  // parts of a step by other names
  EXPECT_EQ(row_named(rows, "activations").measured_bytes, 440);
  EXPECT_EQ(row_named(rows, "tables").difference_percent(), std::nullopt);
  EXPECT_EQ(rows.back().name, "total");
  EXPECT_EQ(rows.back().planned_bytes, 1000);
  EXPECT_NEAR(*rows.back().difference_percent(), 100.0 * 60 / 940, 1e-9);
}

TEST(MemoryRows, OfAGpuKnowTheTotalOnly) {
  MemoryPlan plan = plan_of_1000();
  plan.device_bytes = {{"weights", 600}, {"runtime", 1 << 30}, {"layer_workspace", 200}, {"total", (1 << 30) + 800}};
  const std::vector<MemoryRow> rows = memory_rows(plan, {}, 810);
  EXPECT_EQ(row_named(rows, "weights").measured_bytes, std::nullopt);
  EXPECT_EQ(rows.back().planned_bytes, 800);  // no tensor holds the runtime
  EXPECT_EQ(rows.back().measured_bytes, 810);
}

class MemoryFile : public testing::Test {
 protected:
  JsonValue file() const { return parse_json(dir.read("memory.json"), "memory.json"); }
  int64_t measured() const { return static_cast<int64_t>(*file().find("total")->find("measured_bytes")->unsigned_integer()); }
  TempDir dir;
  MemoryPlan plan = plan_of_1000();
  MemoryObserver observer{dir / "memory.json", plan, false};
};

TEST_F(MemoryFile, HoldsTheWorstStep) {
  observer.after_step(report_of(1, 500, 400));
  EXPECT_EQ(measured(), 900);
  observer.after_step(report_of(2, 500, 420));
  observer.after_step(report_of(3, 500, 410));
  EXPECT_EQ(measured(), 920);
  EXPECT_EQ(*file().find("step")->unsigned_integer(), 2u);
  ASSERT_EQ(file().find("components")->array()->size(), kNumComponents);
  EXPECT_EQ(*file().find("components")->array()->front().find("own_peak_bytes")->unsigned_integer(), 500u);
}

TEST_F(MemoryFile, StartsAnewWithAnotherPlan) {
  observer.after_step(report_of(1, 500, 900));
  plan.layer_policy = {KeepPolicy::save_attention};
  observer.after_step(report_of(2, 500, 950));  // in part the old plan's
  EXPECT_EQ(measured(), 1400);
  observer.after_step(report_of(3, 500, 420));
  EXPECT_EQ(measured(), 920);
}

TEST_F(MemoryFile, StartsAnewWithAnotherPlanOfFullAttention) {
  observer.after_step(report_of(1, 500, 900));
  plan.full_layer_policy = {KeepPolicy::checkpoint};
  observer.after_step(report_of(2, 500, 950));
  EXPECT_EQ(measured(), 1400);
  observer.after_step(report_of(3, 500, 420));
  EXPECT_EQ(measured(), 920);
}

TEST(LastWords, SayWhatWasNeededAndWhatToDo) {
  const std::optional<Error> error = thrown_by([] {
    fail_out_of_memory(std::runtime_error("CUDA out of memory. Tried to allocate 2.00 GiB.\nbacktrace"), 7,
                       {int64_t{3} << 30, int64_t{4} << 30, "memory.device_budget"});
  });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::memory);
  EXPECT_EQ(error->what_happened, "an allocation failed: CUDA out of memory. Tried to allocate 2.00 GiB.; the plan was 3.0 GiB of 4.0 GiB");
  EXPECT_EQ(error->where, "after step 7");
  EXPECT_THAT(error->what_to_do, testing::HasSubstr("lower memory.device_budget"));
}

}  // namespace
}  // namespace longlora
