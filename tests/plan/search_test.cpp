// The search against all policies of all layers, and against its own promises.
#include "plan/search.h"

#include <gtest/gtest.h>

#include <random>

#include "longlora/core/clock.h"
#include "plan/passes.h"
#include "plan/published_models.h"

namespace longlora {
namespace {

using plan::Found;
using plan::Freedom;
using plan::LayerCosts;
using plan::Limits;
using plan::Offload;
using plan::Search;
using plan::Streaming;

constexpr int64_t kLayers = 4;

LayerCosts costs_by(double (*cost)(const LayerPolicy&)) {
  LayerCosts costs;
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all})
    for (const bool streamed : {false, true})
      for (const bool offloaded : {false, true}) {
        const LayerPolicy p(keep, streamed, offloaded);
        costs.at(p) = cost(p);
      }
  return costs;
}
double keeping(const LayerPolicy& p) { return p.keep == KeepPolicy::checkpoint ? 100 : p.keep == KeepPolicy::save_attention ? 70 : 0; }
/// A fast link: an offload costs its traffic through memory.
const LayerCosts kCosts = costs_by([](const LayerPolicy& p) { return keeping(p) + (p.streamed ? 7 : 0) + (p.offloaded ? 3 : 0); });
/// A slow one: the less a layer computes again, the more of the copy is exposed.
const LayerCosts kSlowLink =
    costs_by([](const LayerPolicy& p) { return keeping(p) + (p.streamed ? 7 : 0) + (p.offloaded ? 153 - keeping(p) : 0); });

ModelConfig small_model() { return llama2(kLayers, 512, 1376, 4, 2); }

plan::PassShape small_pass(bool on_device) {
  return plan::training_pass(small_model(), {}, one_row(40960), {on_device ? PlanTarget::Device::gpu : PlanTarget::Device::cpu, 2, 0, 0});
}

/// Every assignment of policies to layers. Offloaded layers are all streamed or all whole: their slots have one size.
template <class Body>
void for_all_policies(const Freedom& freedom, Body&& body) {
  constexpr int kChoices = 12;
  int64_t assignments = 1;
  for (int64_t l = 0; l < kLayers; ++l) assignments *= kChoices;
  for (int64_t i = 0; i < assignments; ++i) {
    std::vector<LayerPolicy> policies;
    bool allowed = true, any_whole = false, any_streamed = false;
    for (int64_t l = 0, rest = i; l < kLayers; ++l, rest /= kChoices) {
      const int choice = static_cast<int>(rest % kChoices);
      const LayerPolicy p(static_cast<KeepPolicy>(choice % 3), choice / 3 % 2 == 1, choice / 6 == 1);
      allowed &= !p.streamed || freedom.streaming != Streaming::never;
      allowed &= p.streamed || freedom.streaming != Streaming::always;
      allowed &= !p.offloaded || freedom.offload != Offload::never;
      if (p.offloaded) (p.streamed ? any_streamed : any_whole) = true;
      policies.push_back(p);
    }
    if (allowed && !(any_whole && any_streamed)) body(policies);
  }
}

double cost_of(const std::vector<LayerPolicy>& policies, const LayerCosts& costs) {
  double cost = 0;
  for (const LayerPolicy& p : policies) cost += costs.at(p);
  return cost;
}

struct Case {
  const char* name;
  Freedom freedom;
  bool on_device;
  const LayerCosts& costs = kCosts;
};
class BruteForce : public testing::TestWithParam<Case> {};

TEST_P(BruteForce, FindsNothingCheaper) {
  const Case& c = GetParam();
  const plan::PassShape pass = small_pass(c.on_device);
  ASSERT_GT(pass.layer.block, 0);
  const Search search(pass.layer, pass.loss, kLayers, c.costs, c.freedom);
  struct One {
    int64_t bytes, host_bytes;
    double cost;
  };
  std::vector<One> all;
  int64_t most = 0;
  for_all_policies(c.freedom, [&](const std::vector<LayerPolicy>& policies) {
    all.push_back(
        {training_peak(pass.layer, policies, pass.loss).total(), offloaded_bytes(pass.layer, policies), cost_of(policies, c.costs)});
    most = std::max(most, all.back().bytes);
  });
  std::mt19937_64 random(7);
  const int64_t least = search.least_arena_bytes(int64_t{1} << 40), input = pass.layer.num_tokens() * 512 * 2;
  for (int i = 0; i < 60; ++i) {
    const Limits limits{least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least)),
                        c.freedom.offload == Offload::never ? 0 : input * static_cast<int64_t>(random() % (kLayers + 1))};
    double cheapest = 1e30;
    for (const One& one : all)
      if (one.bytes <= limits.arena_bytes && one.host_bytes <= limits.host_bytes) cheapest = std::min(cheapest, one.cost);
    const std::optional<Found> found = search.cheapest(limits);
    ASSERT_EQ(found.has_value(), cheapest < 1e30) << i;
    EXPECT_EQ(found.has_value(), search.least_arena_bytes(limits.host_bytes) <= limits.arena_bytes) << i;
    if (!found) continue;
    EXPECT_NEAR(found->cost, cheapest, 1e-9) << i << ": " << plan::summary_of(found->policies);
    EXPECT_NEAR(found->cost, cost_of(found->policies, c.costs), 1e-9);
    EXPECT_LE(found->peak.total(), limits.arena_bytes);
    EXPECT_EQ(found->peak.total(), training_peak(pass.layer, found->policies, pass.loss).total());
    EXPECT_LE(offloaded_bytes(pass.layer, found->policies), limits.host_bytes);
    const std::optional<Found> next = search.next_better(*found);
    if (next) EXPECT_GT(next->peak.total(), limits.arena_bytes);
    if (next) EXPECT_LT(next->cost, found->cost);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Small, BruteForce,
    testing::Values(Case{"whole", {}, false}, Case{"streamed", {.streaming = Streaming::always}, false},
                    Case{"per_layer", {.streaming = Streaming::where_needed}, false},
                    Case{"whole_and_offload", {.offload = Offload::surplus}, true},
                    Case{"streamed_and_offload", {.streaming = Streaming::always, .offload = Offload::surplus}, true},
                    Case{"everything", {.streaming = Streaming::where_needed, .offload = Offload::surplus}, true},
                    Case{"slow_link", {.offload = Offload::surplus}, true, kSlowLink},
                    Case{"slow_link_streamed", {.streaming = Streaming::where_needed, .offload = Offload::surplus}, true, kSlowLink}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Search, OfTiesTakesTheFewestBytes) {
  const plan::PassShape pass = small_pass(false);
  const LayerCosts nothing_costs;
  const Search search(pass.layer, pass.loss, kLayers, nothing_costs, {});
  const std::optional<Found> found = search.cheapest({int64_t{1} << 40, 0});
  EXPECT_EQ(found->peak.total(), search.least_arena_bytes(0));
}

TEST(Search, AFixedPolicyIsKeptAndStreamedLayerByLayer) {
  const plan::PassShape pass = small_pass(false);
  const Search search(pass.layer, pass.loss, kLayers, kCosts, {.keep = KeepPolicy::checkpoint, .streaming = Streaming::where_needed});
  const int64_t least = search.least_arena_bytes(0);
  const std::optional<Found> tight = search.cheapest({least, 0}), roomy = search.cheapest({2 * least, 0});
  EXPECT_TRUE(tight->policies.back().streamed);  // the most is kept before it
  EXPECT_FALSE(roomy->policies.back().streamed);
  for (const LayerPolicy& p : tight->policies) EXPECT_EQ(p.keep, KeepPolicy::checkpoint);
  EXPECT_FALSE(search.cheapest({least - 1, 0}));
}

TEST(Search, MoreMemoryNeverCostsMore) {
  const plan::PassShape pass = small_pass(true);
  const Search search(pass.layer, pass.loss, kLayers, kCosts, {.streaming = Streaming::where_needed, .offload = Offload::surplus});
  const int64_t input = pass.layer.num_tokens() * 512 * 2, least = search.least_arena_bytes(2 * input);
  double before = 1e30;
  for (int64_t arena = least; before > 0; arena += least / 50) {
    const double cost = search.cheapest({arena, 2 * input})->cost;
    EXPECT_LE(cost, before);
    EXPECT_LE(search.cheapest({arena, 4 * input})->cost, cost);
    before = cost;
  }
}

// 5 GB/s: an offload that a fast link hides would double the step.
TEST(Search, TakesTheRatesItIsGiven) {
  Rates slow = default_rates(DeviceKind::cuda);
  slow.link = 5e9, slow.products = 600e12, slow.source = "of a test";
  const PlanTarget target = gpu_gib(22, 120);
  const StepShape step = step_shape(llama2_7b(), {}, one_row(8192), true, 2);
  const auto seconds = [&](const MemoryPlan& plan) { return predict_step_time(step, plan.layer_policy, slow).total(); };
  const MemoryPlan assumed = make_memory_plan(llama2_7b(), {}, one_row(8192), target);
  const MemoryPlan given = make_memory_plan(llama2_7b(), {}, one_row(8192), target, slow);
  EXPECT_LT(seconds(given), 0.7 * seconds(assumed));
  EXPECT_EQ(given.search_rates, "of a test");
  EXPECT_EQ(assumed.search_rates, default_rates(target).source);
}

TEST(Search, EightyLayersTakeLessThanASecond) {
  const double started = monotonic_seconds();
  TrainConfig config;
  config.attention.full_steps = 1;
  make_memory_plan(llama2_70b(), config, one_row(102400), gpu_gib(200, 300));
  largest_context(llama2_70b(), config, one_row(102400), gpu_gib(200, 300));
  EXPECT_LT(monotonic_seconds() - started, 1.0);
}

}  // namespace
}  // namespace longlora
