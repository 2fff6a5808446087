#include "longlora/plan/rates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "plan/published_models.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;

const Rates kH100 = default_rates(DeviceKind::cuda);

StepShape shape_of(const ModelConfig& model, int64_t tokens, const TrainConfig& config = {}) {
  return step_shape(model, config, one_row(tokens), true, 2);
}
StepTime time_of(const StepShape& shape, const LayerPolicy& policy, const Rates& rates = kH100) {
  return predict_step_time(shape, std::vector<LayerPolicy>(static_cast<size_t>(shape.layers), policy), rates);
}

// The derived table of FLOPs (n = 4, LoRA terms left out, which are below 0.3 %): GF a token; tok/s of save_attention at an HFU of one
// half.
struct Derived {
  const char* name;
  ModelConfig model;
  int64_t tokens;
  double model_full, model_s2, save_attention, checkpoint, half_rate;
};
class DerivedFlops : public testing::TestWithParam<Derived> {};

TEST_P(DerivedFlops, AgreeToHalfAPercent) {
  const Derived& d = GetParam();
  TrainConfig full;
  full.attention.kind = AttentionKind::full;
  const auto near = [](double got, double published) { EXPECT_NEAR(got, published, 0.005 * published); };
  const StepShape s = shape_of(d.model, d.tokens);
  const double lora = 6.0 * static_cast<double>(s.layer_lora * s.layers);
  const auto model = [&](const StepShape& of) { return (time_of(of, KeepPolicy::save_all).flops.model - lora) / 1e9; };
  const auto hardware = [&](KeepPolicy keep) { return (time_of(s, keep).flops.hardware - lora) / 1e9; };
  near(model(shape_of(d.model, d.tokens, full)), d.model_full);
  near(model(s), d.model_s2);
  near(hardware(KeepPolicy::save_all), d.model_s2);
  near(hardware(KeepPolicy::save_attention), d.save_attention);
  near(hardware(KeepPolicy::checkpoint), d.checkpoint);
  near(0.5 * 989.4e12 / time_of(s, KeepPolicy::save_attention).flops.hardware, d.half_rate);
}

INSTANTIATE_TEST_SUITE_P(Table, DerivedFlops,
                         testing::Values(Derived{"7B_8k", llama2_7b(), 8192, 33.9, 28.2, 38.3, 38.8, 12930},
                                         Derived{"7B_32k", llama2_7b(), 32768, 56.5, 33.5, 43.5, 45.6, 11360},
                                         Derived{"7B_64k", llama2_7b(), 65536, 86.6, 40.5, 50.6, 54.6, 9780},
                                         Derived{"7B_100k", llama2_7b(), 102400, 120.4, 48.4, 58.5, 64.8, 8450},
                                         Derived{"7B_256k", llama2_7b(), 262144, 266.9, 82.8, 92.9, 109.0, 5330},
                                         Derived{"7B_512k", llama2_7b(), 524288, 507.5, 139.2, 149.2, 181.4, 3320},
                                         Derived{"13B_8k", llama2_13b(), 8192, 63.2, 54.2, 73.9, 74.7, 6700},
                                         Derived{"13B_32k", llama2_13b(), 32768, 98.4, 62.4, 82.1, 85.3, 6020},
                                         Derived{"13B_100k", llama2_13b(), 102400, 198.2, 85.8, 105.5, 115.4, 4690},
                                         Derived{"70B_8k", llama2_70b(), 8192, 312.4, 283.7, 383.0, 385.5, 1290},
                                         Derived{"70B_32k", llama2_70b(), 32768, 425.2, 310.1, 409.4, 419.5, 1210},
                                         Derived{"70B_100k", llama2_70b(), 102400, 744.6, 385.0, 484.3, 515.7, 1020}),
                         [](const auto& info) { return "model_" + std::string(info.param.name); });

TEST(StepTime, AddsItsPartsByHand) {
  const StepShape s = shape_of(llama2_7b(), 102400);
  const StepTime t =
      time_of(s, KeepPolicy::save_attention, {.products = 1e12, .attention = 2e12, .elementwise = 1e12, .link = 1e9, .peak = 4e12});
  const double tokens = 102400, h = 4096, f = 11008, layers = 32, vocabulary = 32000, lora = 8 * (6 * h + 2 * h);
  const double layer = 4 * h * h + 3 * h * f, again = 2 * (layer - h * f);
  EXPECT_NEAR(t.products, tokens * (layers * (4 * layer + again + 6 * lora) + 4 * vocabulary * h) / 1e12, 1e-9 * t.products);
  // forward once, backward as it is executed: 3.5 times forward; allowed pairs of plain and shifted heads
  const double g = tokens / 4, b = g / 2, plain = 4 * g * (g + 1) / 2, shifted = 3 * g * (g + 1) / 2 + b * (b + 1);
  EXPECT_NEAR(t.attention, 4.5 * layers * 4 * 128 * 16 * (plain + shifted) / 2e12, 1e-9 * t.attention);
  // forward 2 norms (4 h), RoPE (4 h), SwiGLU (3 f); backward the norms again, RoPE again and back, SwiGLU (5 f), norms (8 h), delta (2 h)
  const double loss = 3 * 4 * vocabulary + 9 * 2 * h;
  EXPECT_NEAR(t.elementwise, tokens * (layers * 2 * (30 * h + 8 * f) + loss) / 1e12, 1e-9 * t.elementwise);
  const double trainable = 139'730'944 - 4096;  // one added token less
  EXPECT_NEAR(t.optimizer, trainable * (30 + 8) / 1e12, 1e-9 * t.optimizer);
  EXPECT_EQ(t.copies + t.exchange, 0);
  EXPECT_NEAR(t.tokens_per_second, tokens / (t.products + t.attention + t.elementwise + t.optimizer), 1e-6);
  EXPECT_NEAR(t.mfu, t.flops.model * t.tokens_per_second / 4e12, 1e-12);
  EXPECT_NEAR(t.hfu / t.mfu, t.flops.hardware / t.flops.model, 1e-12);
}

TEST(StepTime, KeepingMoreNeverTakesLonger) {
  for (const ModelConfig& model : {llama2_7b(), llama2_13b(), llama2_70b()}) {
    for (const int64_t tokens : {8192, 65536, 524288}) {
      const StepShape s = shape_of(model, tokens);
      const double least = time_of(s, KeepPolicy::checkpoint).total(), some = time_of(s, KeepPolicy::save_attention).total();
      EXPECT_GT(least, some);
      EXPECT_GT(some, time_of(s, KeepPolicy::save_all).total());
      EXPECT_GT(time_of(s, {KeepPolicy::checkpoint, true}).total(), least);  // sums between blocks
      EXPECT_EQ(time_of(s, KeepPolicy::checkpoint).flops.hardware, time_of(s, {KeepPolicy::checkpoint, true, true}).flops.hardware);
    }
  }
}

TEST(StepTime, OffloadIsHiddenByAFastLinkAndExposedByASlowOne) {
  const StepShape s = shape_of(llama2_7b(), 102400);
  const LayerPolicy kept(KeepPolicy::checkpoint), away(KeepPolicy::checkpoint, false, true);
  EXPECT_EQ(time_of(s, away).copies, 0);
  const double both_ways = 32 * 2 * 2.0 * 4096 * 102400, bandwidth = both_ways / kH100.elementwise;
  EXPECT_NEAR(time_of(s, away).total(), time_of(s, kept).total() + bandwidth, 1e-9);
  EXPECT_NEAR(time_of(s, away).hidden_copies, both_ways / kH100.link, 1e-9);
  Rates slow = kH100;
  slow.link = 1e9;
  const StepTime t = time_of(s, away, slow);
  EXPECT_GT(t.copies, 0);
  EXPECT_NEAR(t.copies + t.hidden_copies, both_ways / slow.link, 1e-9);
  EXPECT_LE(t.hidden_copies, time_of(s, kept, slow).total());
  EXPECT_NEAR(t.total() - t.copies, time_of(s, kept, slow).total() + bandwidth, 1e-9);
  // what a layer's forward and backward take is hidden, no more: both ways are slower than either here
  slow.link = 1e6;
  const LayerTime bare = layer_time(s, kept, slow);
  EXPECT_NEAR(time_of(s, away, slow).hidden_copies, 32 * bare.total() + bandwidth, 1e-6);
}

TEST(StepTime, TheTableOfASearchHoldsTheSeconds) {
  const StepShape s = shape_of(llama2_13b(), 32768);
  Rates slow = kH100;
  slow.link = 1e9;
  const LayerSeconds table(s, slow);
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all})
    for (const bool streamed : {false, true})
      for (const bool offloaded : {false, true}) {
        const LayerPolicy policy(keep, streamed, offloaded);
        EXPECT_EQ(table(policy), layer_seconds(s, policy, slow)) << name_of(policy);
        EXPECT_EQ(table(policy), layer_time(s, policy, slow).total());
      }
}

TEST(StepTime, MicroBatchesAndRanksMultiplyTokens) {
  RunPlan run = one_row(8192);
  const StepTime one = time_of(step_shape(llama2_7b(), {}, run, true, 2), KeepPolicy::save_all);
  run.ranks = 4, run.accumulation = 3, run.canonical_shards = 12;
  const StepShape s = step_shape(llama2_7b(), {}, run, true, 2);
  EXPECT_EQ(s.step_tokens, 12 * 8192);
  Rates alone = kH100;
  alone.peers = 0;
  const StepTime t = time_of(s, KeepPolicy::save_all, alone);
  EXPECT_NEAR(t.products, 3 * one.products, 1e-9);
  EXPECT_NEAR(t.attention, 3 * one.attention, 1e-9);
  EXPECT_EQ(t.exchange, 0);
  EXPECT_NEAR(t.tokens_per_second * t.total(), 12 * 8192, 1e-6);
  EXPECT_NEAR(t.mfu, t.flops.model * t.tokens_per_second / 4 / kH100.peak, 1e-12);
  EXPECT_NEAR(time_of(s, KeepPolicy::save_all).exchange, 8.0 * static_cast<double>(s.trainable) * 3 / 4 / kH100.peers, 1e-12);
}

TEST(StepTime, GatheredWeightsAndHalosCostWhatNothingHides) {
  RunPlan run = one_row(8192);
  run.ranks = 8;
  const StepShape s = step_shape(llama2_70b(), {}, run, true, 2, 8);
  EXPECT_EQ(s.gather_bytes, int64_t{2} * 855'638'016 / 8 * 7);
  const double reduction = 8.0 * static_cast<double>(s.trainable) * 7 / 8;
  EXPECT_NEAR(time_of(s, KeepPolicy::checkpoint).exchange, reduction / kH100.peers, 1e-9);  // behind the products of a layer
  Rates slow = kH100;
  slow.peers = 1e9;
  const double gathers = 80 * 2 * static_cast<double>(s.gather_bytes) / 1e9;
  EXPECT_NEAR(
      time_of(s, KeepPolicy::checkpoint, slow).exchange,
      gathers + reduction / 1e9 - 80 * layer_seconds(step_shape(llama2_70b(), {}, one_row(8192), true, 2), KeepPolicy::checkpoint, slow),
      1e-6);

  TrainConfig shared;
  shared.dist.sequence_parallel = 8;
  run = one_row(102400);
  const StepShape part = step_shape(llama2_7b(), shared, run, true, 2);
  EXPECT_EQ(part.layer.tokens, 12800);
  EXPECT_EQ(part.step_tokens, 102400);
  EXPECT_NEAR(part.attention_flops, shape_of(llama2_7b(), 102400).attention_flops / 8, 1);
  EXPECT_EQ(part.halo_bytes, 12800 * 2 * 16 * 128 * (2 + 2 + 4));  // half of the KV heads: two times there in bf16, back in fp32
}

TEST(StepTime, FullTuningHasWeightGradients) {
  TrainConfig full;
  full.tuning.mode = TuningMode::full;
  const StepTime t = time_of(shape_of(llama2_7b(), 8192, full), KeepPolicy::save_all);
  const double attention = 3.5 * 32 * shape_of(llama2_7b(), 8192).attention_flops / 8192;
  EXPECT_NEAR(t.flops.model, 6 * (6476005376.0 + 32000 * 4096) + attention, 1);
}

TEST(StepTime, TextNamesEveryPart) {
  const std::string text = step_time_text(time_of(shape_of(llama2_7b(), 102400), KeepPolicy::save_attention));
  for (const char* part :
       {"products", "attention", "elementwise", "exposed copies 0", "optimizer", "tok/s", "MFU", "HFU", "of 989 TFLOP/s, assumed"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(Rates, DefaultsSayThatTheyAreAssumed) {
  for (const DeviceKind kind : {DeviceKind::cuda, DeviceKind::cpu}) {
    const Rates r = default_rates(kind);
    EXPECT_THAT(r.source, HasSubstr("assumed"));
    for (const double rate : {r.products, r.attention, r.elementwise, r.link, r.peak}) EXPECT_GT(rate, 0);
  }
  EXPECT_EQ(kH100.peak, 989.4e12);
  EXPECT_EQ(kH100.products, 0.75 * 989.4e12);
  EXPECT_NEAR(time_of(shape_of(llama2_7b(), 102400), KeepPolicy::save_attention).hfu, 0.5, 0.02);  // what the attention rate is chosen for
}

constexpr const char* kMeasured =
    R"({"longlora_rates": 1, "kind": "cuda", "device": "A card", "dtype": "bf16", "date": "2026-01-02", "products": 6e14, "attention": 3e14,)"
    R"( "elementwise": 2.0e12, "link": 4e10, "peers": null, "peak": 9.894e14})";

TEST(Rates, AreReadFromWhatDoctorWrites) {
  const Rates r = parse_rates(kMeasured, "rates.json");
  EXPECT_EQ(r.products, 6e14);
  EXPECT_EQ(r.attention, 3e14);
  EXPECT_EQ(r.elementwise, 2e12);
  EXPECT_EQ(r.link, 4e10);
  EXPECT_EQ(r.peers, 0);
  EXPECT_EQ(r.peak, 9.894e14);
  EXPECT_EQ(r.device, DeviceKind::cuda);
  EXPECT_EQ(r.peak_kind, PeakKind::measured);  // nobody prints a peak for such a card
  EXPECT_EQ(r.source, "measured on A card, bf16, 2026-01-02 (rates.json)");
}

TEST(Rates, AreReadFromABenchmarkOfAGpu) {
  const char* machine = R"({"device": "NVIDIA H100 80GB HBM3", "date": "2026-01-02", "gemm_tflops": {"before": 700.0, "after": null},
                            "copy_gbs": 2900.5, "rows": []})";
  const Rates r = parse_rates(machine, "machine.json");
  EXPECT_EQ(r.products, 700e12);
  EXPECT_DOUBLE_EQ(r.attention, 420e12);
  EXPECT_EQ(r.elementwise, 2900.5e9);
  EXPECT_EQ(r.peak, 989.4e12);
  EXPECT_EQ(peak_text(r), "989 TFLOP/s, the card's");
  EXPECT_EQ(r.device, DeviceKind::cuda);
  EXPECT_THAT(r.source, HasSubstr("attention and link assumed"));
}

TEST(Rates, MalformedFilesAreRefusedWithAPlace) {
  const auto with = [](std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  struct Row {
    std::string text, said;
  };
  const Row rows[] = {{"", "rates.json"},
                      {"[1, 2]", "neither rates of doctor nor a machine.json"},
                      {"{}", "neither rates of doctor nor a machine.json"},
                      {R"({"gemm_tflops": 700})", "neither rates of doctor"},
                      {R"({"gemm_tflops": {"before": 700}})", "copy_gbs"},
                      {R"({"gemm_tflops": {"before": null}, "copy_gbs": 1})", "before"},
                      {with(kMeasured, "\"longlora_rates\": 1", "\"longlora_rates\": 2"), "another version"},
                      {with(kMeasured, "\"kind\": \"cuda\", ", ""), "rates.json: kind"},
                      {with(kMeasured, "\"cuda\"", "\"tpu\""), "neither cuda nor cpu"},
                      {with(kMeasured, "6e14", "0"), "rates.json: products"},
                      {with(kMeasured, "6e14", "-6e14"), "rates.json: products"},
                      {with(kMeasured, "6e14", "1e999"), "rates.json"},
                      {with(kMeasured, "6e14", "\"fast\""), "got string"},
                      {with(kMeasured, "\"link\": 4e10, ", ""), "rates.json: link"},
                      {with(kMeasured, "null", "0"), "rates.json: peers"},
                      {with(kMeasured, "\"peak\"", "\"products\""), "rates.json"}};
  for (const Row& row : rows) {
    const auto error = thrown_by([&] { parse_rates(row.text, "rates.json"); });
    ASSERT_TRUE(error) << row.text;
    EXPECT_EQ(error->kind, ErrorKind::data) << row.text;
    EXPECT_THAT(std::string(error->what()), HasSubstr(row.said)) << row.text;
  }
  EXPECT_EQ(kind_of([] { read_rates("/nowhere/rates.json"); }), ErrorKind::missing);
}

TEST(Rates, PeaksArePrintedOnesOrUnknown) {
  EXPECT_EQ(printed_peak("NVIDIA H100 80GB HBM3"), 989.4e12);
  EXPECT_EQ(printed_peak("NVIDIA H100 PCIe"), 756e12);
  EXPECT_EQ(printed_peak("NVIDIA A100-SXM4-40GB"), 312e12);
  EXPECT_EQ(printed_peak("NVIDIA GeForce RTX 4090"), 165.2e12);
  for (const char* other : {"An unknown card", "NVIDIA RTX A1000", "NVIDIA H20", "NVIDIA GB200", "NVIDIA GeForce RTX 4090 D",
                            "NVIDIA GeForce RTX 4090 Laptop GPU", ""})
    EXPECT_EQ(printed_peak(other), 0) << other;
}

TEST(Rates, Fp32OnAGpuIsNotAssumedToBeAsFastAsBf16) {
  const Rates wide = default_rates(DeviceKind::cuda, ComputeType::fp32);
  EXPECT_LT(wide.products, 0.1 * kH100.products);
  EXPECT_THAT(wide.source, HasSubstr("fp32"));
  PlanTarget target = gpu_gib(76);
  EXPECT_EQ(default_rates(target).source, kH100.source);
  target.element_bytes = 4;
  EXPECT_EQ(default_rates(target).source, wide.source);
}

TEST(Rates, PeaksSayWhoseTheyAre) {
  EXPECT_EQ(peak_text({.peak = 133.2e9, .peak_kind = PeakKind::measured}), "133 GFLOP/s, measured");
  EXPECT_EQ(peak_text({.peak = 312e12, .peak_kind = PeakKind::printed}), "312 TFLOP/s, the card's");
  EXPECT_EQ(peak_text(default_rates(DeviceKind::cpu)), "100 GFLOP/s, assumed");
}

}  // namespace
}  // namespace longlora
