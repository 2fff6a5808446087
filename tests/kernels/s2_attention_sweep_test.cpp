// Every attention kernel against the fp64 oracle over shapes, types and patterns. In the emulator each case runs twice: eager copies,
// threads and blocks in order; lazy copies, random threads, shuffled and interleaved blocks. Both must give the same bits. LONGLORA_SWEEP
// chooses how many cases; LONGLORA_SEED another set of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/support/attention_run.h"
#include "kernels/support/sweep.h"
#include "kernels/support/tolerance.h"
#if defined(LONGLORA_EMU)
#include "emu/runtime.h"
#endif

namespace longlora::testing {
namespace {

using kernels::ElementType;

struct SweepCase {
  AttentionCase shape;
  ElementType type = ElementType::bf16;
  Placement placement;
  float spread = 1.0f;
  uint64_t seed = 0;
};

std::string describe(const SweepCase& c) {
  const AttentionCase& s = c.shape;
  std::string text = "B " + std::to_string(s.rows) + " T " + std::to_string(s.tokens) + " g " + std::to_string(s.group) + " H " +
                     std::to_string(s.heads) + " K " + std::to_string(s.kv_heads) + " plain " + std::to_string(s.num_plain) + " D " +
                     std::to_string(s.head_size) + " type " + std::to_string(static_cast<int>(c.type)) + (s.wraps ? " wraps" : "") +
                     " seed " + std::to_string(c.seed);
  if (!s.document_starts.empty()) {
    text += " documents";
    for (const int64_t d : s.document_starts.front()) text += " " + std::to_string(d);
  }
  return text;
}

template <class T>
const T& pick(const std::vector<T>& from, std::mt19937_64& random) {
  return from[random() % from.size()];
}

/// None (half of the cases), one start near a segment edge, every token its own document, or random starts.
std::vector<int64_t> random_documents(const AttentionCase& c, std::mt19937_64& random) {
  std::vector<int64_t> starts{0};
  switch (random() % 3) {
    case 0: {
      const int64_t edge = c.group / 2 * static_cast<int64_t>(1 + random() % 4) + static_cast<int64_t>(random() % 3) - 1;
      if (edge > 0 && edge < c.tokens) starts.push_back(edge);
      break;
    }
    case 1:
      for (int64_t t = 1; t < c.tokens; ++t) starts.push_back(t);
      break;
    default:
      for (int64_t t = 1; t < c.tokens; ++t)
        if (random() % 16 == 0) starts.push_back(t);
  }
  return starts;
}

/// Pairs times head size that the emulator and the oracle have to look at: about what a case costs.
int64_t cost(const AttentionCase& c) {
  const int64_t seen = std::min(std::max<int64_t>(c.group, 128), c.tokens);
  return c.rows * c.heads * c.tokens * seen * c.head_size;
}

SweepCase random_case(uint64_t seed, int64_t budget) {
  std::mt19937_64 random(seed);
  SweepCase c;
  c.seed = seed;
  AttentionCase& s = c.shape;
  static const std::vector<std::pair<int64_t, int64_t>> kHeads{{1, 1}, {2, 1}, {2, 2}, {3, 1}, {8, 2}, {8, 8}, {9, 3}, {5, 5}, {32, 8}};
  do {
    c.type = pick<ElementType>({ElementType::bf16, ElementType::bf16, ElementType::fp16, ElementType::fp16, ElementType::fp32}, random);
    s.tokens = pick<int64_t>({1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 250, 256, 257, 1000, 1024}, random);
    s.group = pick<int64_t>({2, 4, 6, 30, 64, 128, 250, 256, 1024, 4096}, random);
    std::tie(s.heads, s.kv_heads) = pick(kHeads, random);
    s.head_size = c.type == ElementType::fp32 ? pick<int64_t>({1, 8, 64, 80, 128}, random) : pick<int64_t>({64, 128}, random);
    s.rows = random() % 4 == 0 ? 3 : 1;
    s.num_plain = pick<int64_t>({s.heads / 2, s.heads / 2, s.heads, 0}, random);
  } while (cost(s) * (c.type == ElementType::fp32 ? 32 : 1) > budget);
  c.spread = random() % 3 == 0 ? 3.0f : 1.0f;
  c.placement.gap = random() % 2 == 0 ? 8 : 0;
  s.wraps = s.tokens % s.group == 0 && random() % 3 == 0;
  if (!s.wraps && random() % 2 == 0)
    for (int64_t b = 0; b < s.rows; ++b) s.document_starts.push_back(random_documents(s, random));
  return c;
}

/// The corners: each with the mandatory shape of 9 query heads over 3 KV heads, one of which serves both patterns, or with the largest T.
std::vector<SweepCase> fixed_cases() {
  std::vector<SweepCase> cases;
  const auto add = [&](int64_t T, int64_t g, int64_t H, int64_t K, int64_t plain, int64_t D, ElementType type, bool wraps = false,
                       std::vector<std::vector<int64_t>> documents = {}, int64_t B = 1) {
    cases.push_back({{B, T, g, H, K, plain, D, wraps, std::move(documents)}, type, {}, 1.0f, cases.size()});
  };
  for (const ElementType type : {ElementType::bf16, ElementType::fp16})
    for (const int64_t D : {64, 128}) {
      add(1, 2, 1, 1, 0, D, type);
      add(129, 128, 9, 3, 4, D, type);
      add(257, 256, 9, 3, 4, D, type);        // aligned tiles, one row in the last
      add(256, 256, 9, 3, 4, D, type, true);  // wrap-around with T = g: both bands in one tile
      add(250, 250, 2, 1, 1, D, type, true);  // T no multiple of a tile
      add(384, 128, 3, 1, 1, D, type, true, {}, 3);
      add(256, 64, 8, 2, 4, D, type, false, {{0, 31, 32, 33, 63, 64, 65, 255}});
      add(1024, 256, 2, 2, 1, D, type);
      add(1000, 4096, 1, 1, 0, D, type);  // full causal attention
    }
  add(1024, 1024, 2, 1, 1, 128, ElementType::bf16);
  add(256, 30, 32, 8, 16, 64, ElementType::bf16, false, {}, 1);
  add(65, 64, 9, 3, 4, 80, ElementType::fp32, false, {{0, 1, 63, 64}, {0}, {0, 32}}, 3);
  return cases;
}

/// `summands`: F and M are relative to at least this.
void expect_near(const std::vector<float>& got, const std::vector<double>& want, Tolerance tolerance, const char* name,
                 double summands = 0) {
  ASSERT_EQ(got.size(), want.size());
  double error = 0, norm = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - want[i]);
    ASSERT_FALSE(std::isnan(difference)) << name << "[" << i << "] is NaN: not written, or read before it was there";
    error += difference * difference;
    norm += want[i] * want[i];
    largest = std::max(largest, difference);
  }
  const double count = static_cast<double>(got.size()), rms = std::max(std::sqrt(norm / count), summands);
  EXPECT_LE(std::sqrt(error / count) / rms, tolerance.relative_norm) << name;
  EXPECT_LE(largest / rms, tolerance.largest) << name;
}

AttentionOutputs run(const SweepCase& c, const AttentionInputs& in,
                     kernels::AttentionVariant variant = kernels::AttentionVariant::automatic) {
  AttentionRun run(c.shape, c.type, in, c.placement, variant);
  run.forward();
  run.backward();
  return run.outputs();
}

void check(const SweepCase& c) {
  SCOPED_TRACE(describe(c));
  const AttentionInputs in = random_inputs(c.shape, c.type, c.seed + 1, c.spread);
  const AttentionResult want = attention_oracle(c.shape, in.q, in.k, in.v, in.d_o);
#if defined(LONGLORA_EMU)
  emu::options() = {};
#endif
  const AttentionOutputs got = run(c, in);
  expect_near(got.o, want.o, attention_tolerance(c.type, AttentionOutput::o), "o");
  expect_near(got.d_v, want.d_v, attention_tolerance(c.type, AttentionOutput::d_v), "d_v");
  expect_near(got.d_k, want.d_k, attention_tolerance(c.type, AttentionOutput::d_q_or_k), "d_k", want.d_k_summands);
  expect_near(got.d_q, want.d_q, attention_tolerance(c.type, AttentionOutput::d_q_or_k), "d_q", want.d_q_summands);
  double lse_error = 0;
  for (size_t i = 0; i < got.lse.size(); ++i) lse_error = std::max(lse_error, std::abs(static_cast<double>(got.lse[i]) - want.lse[i]));
  EXPECT_LE(lse_error, kLseTolerance);
#if defined(LONGLORA_EMU)
  emu::options() = {.seed = c.seed + 1,
                    .schedule = c.seed % 2 ? emu::Schedule::random : emu::Schedule::run_ahead,
                    .lazy_copies = true,
                    .shuffle_blocks = true,
                    .resident_blocks = 2};
#endif
  EXPECT_TRUE(run(c, in) == got) << "another order of threads, copies and blocks gave other bits";
#if defined(LONGLORA_EMU)
  emu::options() = {};
#endif
}

struct Extent {
  int cases;
  int64_t budget;  // every tenth case may cost ten times as much
};
Extent extent() {
  switch (sweep()) {
    case Sweep::sample:
      return {10, 1'000'000};
    case Sweep::small:
      return {160, 1'500'000};
    case Sweep::ci:
      return {2200, 3'000'000};
    default:
      return {20000, 40'000'000};
  }
}

constexpr int kParts = 40;  // so that shards of the test program share the work

class AttentionSweep : public ::testing::TestWithParam<int> {};

TEST_P(AttentionSweep, EqualsTheDefinitionInEveryOrder) {
  const char* text = std::getenv("LONGLORA_SEED");
  const uint64_t seed = text == nullptr ? 20230921 : std::strtoull(text, nullptr, 10);
  for (int i = GetParam(); i < extent().cases; i += kParts) {
    check(random_case(seed + static_cast<uint64_t>(i) * 1000003, extent().budget * (i % 10 == 9 ? 10 : 1)));
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Random, AttentionSweep, ::testing::Range(0, kParts));

class AttentionCorners : public ::testing::TestWithParam<size_t> {};
TEST_P(AttentionCorners, EqualTheDefinitionInEveryOrder) {
  const SweepCase c = fixed_cases()[GetParam()];
  if (sweep() <= Sweep::small && cost(c.shape) > extent().budget) GTEST_SKIP() << "too large for this sweep";
  check(c);
}
INSTANTIATE_TEST_SUITE_P(Fixed, AttentionCorners, ::testing::Range(size_t{0}, fixed_cases().size()));

// The plain kernels take 16-bit types as well: they are what checks the tensor-core kernels on a device.
TEST(AttentionPlain, EqualsTheDefinitionForEveryType) {
  for (const ElementType type : {ElementType::bf16, ElementType::fp16, ElementType::fp32}) {
    SweepCase c{{1, 33, 8, 3, 1, 1, 64, false, {}}, type, {}, 1.0f, 7};
    const AttentionInputs in = random_inputs(c.shape, type, 3);
    const AttentionResult want = attention_oracle(c.shape, in.q, in.k, in.v, in.d_o);
    const AttentionOutputs got = run(c, in, kernels::AttentionVariant::plain);
    expect_near(got.o, want.o, attention_tolerance(type, AttentionOutput::o), "o");
    expect_near(got.d_q, want.d_q, attention_tolerance(type, AttentionOutput::d_q_or_k), "d_q", want.d_q_summands);
    expect_near(got.d_k, want.d_k, attention_tolerance(type, AttentionOutput::d_q_or_k), "d_k", want.d_k_summands);
  }
}

}  // namespace
}  // namespace longlora::testing
