// Rotary frequencies against transformers, against the formulas written out a second time, and at their corners.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>

#include "longlora/config/model_config.h"
#include "support/error_of.h"
#include "support/tolerances.h"

namespace longlora {
namespace {

struct Golden {
  const char* name;
  const char* json;
  int64_t sequence_length;
  double attention_factor;
  std::vector<double> frequencies;
};

const Golden kGolden[] = {
#include "golden_rope.inc"
};

TEST(RopeFrequencies, EqualTransformersForEveryShapeAndType) {
  std::map<RopeType, int> seen;
  for (const Golden& golden : kGolden) {
    SCOPED_TRACE(golden.name);
    const ModelConfig config = parse_model_config(golden.json, golden.name);
    const auto ours = rope_frequencies(config.rope, config.head_dim, config.max_position, golden.sequence_length);
    ASSERT_EQ(ours.size(), golden.frequencies.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      EXPECT_NEAR(ours[i], golden.frequencies[i], rope_frequency_error(config.rope.theta, config.head_dim) * golden.frequencies[i]) << i;
    }
    EXPECT_NEAR(rope_attention_factor(config.rope), golden.attention_factor, near(DType::f32, 1));
    ++seen[config.rope.type];
  }
  EXPECT_EQ(std::size(kGolden), 19u);
  EXPECT_EQ(seen.size(), 5u) << "one of the types is not covered";
}

TEST(RopeFrequencies, DynamicIsTheDefaultUpToMaxPosition) {
  const RopeScaling dynamic{.type = RopeType::dynamic, .factor = 4}, plain{};
  for (const int64_t length : {1, 100, 4096})
    EXPECT_EQ(rope_frequencies(dynamic, 64, 4096, length), rope_frequencies(plain, 64, 4096, 4096));
  EXPECT_NE(rope_frequencies(dynamic, 64, 4096, 4097), rope_frequencies(plain, 64, 4096, 4096));
}

TEST(RopeFrequencies, DynamicRaisesThetaByItsFormula) {
  const RopeScaling dynamic{.type = RopeType::dynamic, .factor = 2};
  const double theta = 10000 * std::pow(2.0 * 16384 / 4096 - 1, 128.0 / 126.0);
  EXPECT_EQ(rope_frequencies(dynamic, 128, 4096, 16384), rope_frequencies({.theta = theta}, 128, 4096, 4096));
}

TEST(RopeFrequencies, LinearDividesEveryFrequency) {
  const auto plain = rope_frequencies({}, 80, 1, 1), scaled = rope_frequencies({.type = RopeType::linear, .factor = 8}, 80, 1, 1);
  ASSERT_EQ(plain.size(), 40u);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(scaled[i], plain[i] / 8) << i;  // a power of two divides exactly
}

TEST(RopeFrequencies, Llama3KeepsFastAndDividesSlowDimensions) {
  const RopeScaling rope{.type = RopeType::llama3, .theta = 500000, .factor = 8, .original_max_position = 8192};
  const auto plain = rope_frequencies({.theta = 500000}, 128, 1, 1), scaled = rope_frequencies(rope, 128, 1, 1);
  size_t kept = 0, divided = 0, between = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    if (wavelength < 2048)
      kept += scaled[i] == plain[i];
    else if (wavelength > 8192)
      divided += scaled[i] == plain[i] / 8;
    else
      between += scaled[i] < plain[i] && scaled[i] > plain[i] / 8;
  }
  EXPECT_EQ(kept + divided + between, plain.size());
  EXPECT_GT(kept, 0u);
  EXPECT_GT(divided, 0u);
  EXPECT_GT(between, 0u);
}

TEST(RopeFrequencies, YarnRampLiesBetweenTheTwo) {
  const RopeScaling rope{.type = RopeType::yarn, .factor = 4, .original_max_position = 4096};
  const auto plain = rope_frequencies({}, 128, 1, 1), scaled = rope_frequencies(rope, 128, 1, 1);
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_EQ(scaled.back(), plain.back() / 4);
  for (size_t i = 1; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 4);
    EXPECT_LE(scaled[i] / plain[i], scaled[i - 1] / plain[i - 1] * (1 + near(DType::f32, 1))) << "the share falls with i";
  }
}

TEST(RopeAttentionFactor, FollowsYarnsRules) {
  const auto yarn = [](double factor) { return RopeScaling{.type = RopeType::yarn, .factor = factor}; };
  EXPECT_EQ(rope_attention_factor({}), 1);
  EXPECT_EQ(rope_attention_factor({.type = RopeType::linear, .factor = 8}), 1);
  EXPECT_EQ(rope_attention_factor(yarn(1)), 1);
  EXPECT_DOUBLE_EQ(rope_attention_factor(yarn(8)), 0.1 * std::log(8.0) + 1);
  RopeScaling both = yarn(8);
  both.mscale = 0.5;
  EXPECT_DOUBLE_EQ(rope_attention_factor(both), 0.1 * std::log(8.0) + 1) << "one of the two alone has no effect";
  both.mscale_all_dim = 2;
  EXPECT_DOUBLE_EQ(rope_attention_factor(both), (0.05 * std::log(8.0) + 1) / (0.2 * std::log(8.0) + 1));
  both.attention_factor = 1.5;
  EXPECT_EQ(rope_attention_factor(both), 1.5);
}

// --- extension: every cell of the table -------------------------------------------------------------------------------------------

ModelConfig base_with(RopeScaling rope, int64_t max_position, int64_t head_dim = 128) {
  ModelConfig c{.vocab_size = 32,
                .hidden_size = head_dim * 2,
                .intermediate_size = 64,
                .num_layers = 1,
                .num_heads = 2,
                .num_kv_heads = 1,
                .head_dim = head_dim,
                .max_position = max_position,
                .rope = rope};
  return parse_model_config(make_model_config(c, "bfloat16"), "config.json");
}

TrainConfig::Rope method(RopeMethod m) { return {.scaling = m, .factor = {}, .theta = {}}; }
TrainConfig::Rope total(double factor) { return {.scaling = RopeMethod::linear, .factor = factor, .theta = {}}; }

const RopeScaling kLinear2{.type = RopeType::linear, .factor = 2};
const RopeScaling kDynamic2{.type = RopeType::dynamic, .factor = 2};
const RopeScaling kYarn2{.type = RopeType::yarn, .factor = 2, .original_max_position = 4096, .beta_fast = 16};
const RopeScaling kLlama8{.type = RopeType::llama3, .theta = 500000, .factor = 8, .original_max_position = 8192};

TEST(ExtendRope, DefaultBaseGrowsByTheCeiledRatio) {
  const std::pair<int64_t, double> cases[] = {{8192, 2}, {16384, 4}, {32768, 8}, {65536, 16}, {100000, 25}, {4097, 2}};
  for (const auto& [length, factor] : cases) {
    const RopeExtension e = extend_rope(base_with({}, 4096), method(RopeMethod::linear), length);
    EXPECT_EQ(e.after.type, RopeType::linear);
    EXPECT_EQ(e.after.factor, factor);
    EXPECT_EQ(e.after.theta, 10000);
    EXPECT_EQ(e.old_context, 4096);
    EXPECT_EQ(e.new_context, length);
    EXPECT_EQ(e.new_max_position, length);
    EXPECT_TRUE(e.changed);
  }
}

TEST(ExtendRope, NothingChangesUpToTheDeclaredContext) {
  for (const RopeMethod m : {RopeMethod::none, RopeMethod::linear, RopeMethod::dynamic, RopeMethod::yarn, RopeMethod::llama3}) {
    for (const ModelConfig& base : {base_with({}, 4096), base_with(kLinear2, 4096), base_with(kDynamic2, 4096), base_with(kYarn2, 4096)}) {
      const RopeExtension e = extend_rope(base, method(m), 4096);
      EXPECT_FALSE(e.changed);
      EXPECT_EQ(e.after, base.rope);
      EXPECT_EQ(e.new_max_position, base.max_position);
    }
  }
}

TEST(ExtendRope, DefaultBaseWithEveryMethod) {
  const ModelConfig base = base_with({}, 4096);
  const RopeExtension dynamic = extend_rope(base, method(RopeMethod::dynamic), 32768);
  EXPECT_EQ(dynamic.after, (RopeScaling{.theta = 10000 * std::pow(8.0, 128.0 / 126.0)}));
  EXPECT_EQ(dynamic.new_max_position, 32768);
  const RopeExtension yarn = extend_rope(base, method(RopeMethod::yarn), 30000);
  EXPECT_EQ(yarn.after, (RopeScaling{.type = RopeType::yarn, .factor = 8, .original_max_position = 4096}));
  EXPECT_EQ(yarn.new_max_position, 32768) << "yarn writes factor x M0, readers derive the factor from the ratio";
  EXPECT_EQ(yarn.new_context, 30000);
  const RopeExtension llama3 = extend_rope(base, method(RopeMethod::llama3), 32768);
  EXPECT_EQ(
      llama3.after,
      (RopeScaling{.type = RopeType::llama3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 4096}));
}

TEST(ExtendRope, ScaledBasesComposeWithTheirOwnMethod) {
  // M 4096 with factor 2 means context 8192: 16384 doubles it
  const RopeExtension linear = extend_rope(base_with(kLinear2, 4096), method(RopeMethod::linear), 16384);
  EXPECT_EQ(linear.old_context, 8192);
  EXPECT_EQ(linear.after, (RopeScaling{.type = RopeType::linear, .factor = 4}));
  const RopeExtension raised = extend_rope(base_with(kLinear2, 4096), method(RopeMethod::dynamic), 16384);
  EXPECT_EQ(raised.after, (RopeScaling{.type = RopeType::linear, .theta = 10000 * std::pow(2.0, 128.0 / 126.0), .factor = 2}));
  const RopeExtension dynamic = extend_rope(base_with(kDynamic2, 4096), method(RopeMethod::dynamic), 16384);
  EXPECT_EQ(dynamic.after, (RopeScaling{.theta = 10000 * std::pow(2.0 * 16384 / 4096 - 1, 128.0 / 126.0)}));
  RopeScaling yarn4 = kYarn2;
  yarn4.factor = 4;
  const RopeExtension yarn = extend_rope(base_with(kYarn2, 8192), method(RopeMethod::yarn), 16384);
  EXPECT_EQ(yarn.old_context, 8192) << "M above M0 is the context";
  EXPECT_EQ(yarn.after, yarn4);
  EXPECT_EQ(yarn.new_max_position, 16384);
  EXPECT_EQ(extend_rope(base_with(kYarn2, 4096), method(RopeMethod::yarn), 16384).old_context, 8192) << "M = M0: factor x M";
  RopeScaling llama16 = kLlama8;
  llama16.factor = 16;
  const RopeExtension llama3 = extend_rope(base_with(kLlama8, 131072), method(RopeMethod::llama3), 262144);
  EXPECT_EQ(llama3.old_context, 131072);
  EXPECT_EQ(llama3.after, llama16);
}

TEST(ExtendRope, OtherCellsNameTheMethodThatComposes) {
  struct Cell {
    RopeScaling base;
    int64_t max_position;
    RopeMethod method;
    const char* composes;
  };
  const Cell cells[] = {{kLinear2, 4096, RopeMethod::yarn, "linear (or dynamic)"},
                        {kLinear2, 4096, RopeMethod::llama3, "linear (or dynamic)"},
                        {kDynamic2, 4096, RopeMethod::linear, "dynamic"},
                        {kDynamic2, 4096, RopeMethod::yarn, "dynamic"},
                        {kDynamic2, 4096, RopeMethod::llama3, "dynamic"},
                        {kYarn2, 4096, RopeMethod::linear, "yarn"},
                        {kYarn2, 4096, RopeMethod::dynamic, "yarn"},
                        {kYarn2, 4096, RopeMethod::llama3, "yarn"},
                        {kLlama8, 131072, RopeMethod::linear, "llama3"},
                        {kLlama8, 131072, RopeMethod::dynamic, "llama3"},
                        {kLlama8, 131072, RopeMethod::yarn, "llama3"}};
  for (const Cell& cell : cells) {
    const auto error = thrown_by([&] { extend_rope(base_with(cell.base, cell.max_position), method(cell.method), 262144); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::config);
    EXPECT_EQ(error->what_to_do, std::string("use rope.scaling: ") + cell.composes);
    EXPECT_THAT(error->what_happened, testing::HasSubstr("does not compose with the base's"));
  }
}

TEST(ExtendRope, OwnExportComposesAndTheUnmarkedReadingIsAsked) {
  // 4096 x 8 = 32768, exported by us: M is 32768 and the mark says so
  ModelConfig exported = base_with({.type = RopeType::linear, .factor = 8}, 32768);
  const auto unmarked = thrown_by([&] { extend_rope(exported, method(RopeMethod::linear), 65536); });
  ASSERT_TRUE(unmarked);
  EXPECT_EQ(unmarked->kind, ErrorKind::config);
  EXPECT_EQ(unmarked->where, "rope.factor");
  EXPECT_EQ(unmarked->what_to_do, "set rope.factor to the total factor, 16 if the model was trained to 32768 tokens");
  exported.declared_context = 32768;
  const RopeExtension e = extend_rope(exported, method(RopeMethod::linear), 65536);
  EXPECT_EQ(e.after.factor, 16);
  EXPECT_EQ(e.new_max_position, 65536);
  exported.declared_context.reset();
  EXPECT_EQ(extend_rope(exported, total(16), 65536).after.factor, 16);
  EXPECT_FALSE(extend_rope(exported, method(RopeMethod::linear), 32768).changed) << "both readings agree up to M";
}

TEST(ExtendRope, BothReadingsArePrinted) {
  const RopeExtension e = extend_rope(base_with(kLinear2, 4096), method(RopeMethod::linear), 16384);
  ASSERT_EQ(e.notices.size(), 1u);
  EXPECT_EQ(e.notices[0],
            "linear scaling with factor 2 and max_position_embeddings 4096: read as context 8192 (total factor 4); read as context "
            "4096 it would be 8: set rope.factor to choose");
  EXPECT_TRUE(extend_rope(base_with({}, 4096), method(RopeMethod::linear), 16384).notices.empty());
}

TEST(ExtendRope, ExplicitFactorIsTheTotal) {
  EXPECT_EQ(extend_rope(base_with(kLinear2, 4096), total(8), 16384).after.factor, 8);
  EXPECT_EQ(extend_rope(base_with({}, 512), total(8), 512).after.factor, 8) << "applies at any length: evaluation of plain interpolation";
  EXPECT_EQ(extend_rope(base_with({}, 512), total(8), 512).new_max_position, 512);
  EXPECT_FALSE(extend_rope(base_with(kLinear2, 4096), total(2), 4096).changed);
  const auto small = thrown_by([] { extend_rope(base_with(kLinear2, 4096), total(1.5), 4096); });
  ASSERT_TRUE(small);
  EXPECT_EQ(small->kind, ErrorKind::config);
  EXPECT_EQ(small->what_happened, "rope.factor: got 1.5, the base has factor 2 already and the total cannot be smaller");
}

TEST(ExtendRope, ScalingNoneIsAllowedWithANotice) {
  const RopeExtension e = extend_rope(base_with({}, 4096), method(RopeMethod::none), 8192);
  EXPECT_EQ(e.after, RopeScaling{});
  EXPECT_EQ(e.new_max_position, 8192);
  ASSERT_EQ(e.notices.size(), 1u);
  EXPECT_EQ(e.notices[0], "rope.scaling is none: 8192 tokens are used with frequencies made for 4096");
  EXPECT_EQ(extend_rope(base_with(kDynamic2, 4096), method(RopeMethod::none), 16384).new_max_position, 4096)
      << "M is the origin of dynamic";
}

TEST(ExtendRope, ThetaOverridesTheModels) {
  TrainConfig::Rope wanted = method(RopeMethod::linear);
  wanted.theta = 50000;
  const RopeExtension e = extend_rope(base_with({}, 4096), wanted, 4096);
  EXPECT_EQ(e.after, RopeScaling{.theta = 50000});
  EXPECT_TRUE(e.changed);
  EXPECT_EQ(e.new_max_position, 4096);
}

TEST(ExtendRope, SummaryIsOneLine) {
  EXPECT_EQ(extend_rope(base_with({}, 4096), method(RopeMethod::linear), 32768).summary(),
            "context 4096 -> 32768, default -> linear, factor 1 -> 8, theta 10000 -> 10000");
  EXPECT_EQ(extend_rope(base_with(kLinear2, 4096), method(RopeMethod::linear), 16384).summary(),
            "context 8192 -> 16384, linear, factor 2 -> 4, theta 10000 -> 10000");
}

// What is written must be read back as what was trained, for every cell that composes.
TEST(ExtendRope, WrittenConfigReadsBackAsTrained) {
  struct Cell {
    RopeScaling base;
    int64_t max_position;
    RopeMethod method;
  };
  const Cell cells[] = {
      {{}, 4096, RopeMethod::linear},         {{}, 4096, RopeMethod::dynamic},      {{}, 4096, RopeMethod::yarn},
      {{}, 4096, RopeMethod::llama3},         {kLinear2, 4096, RopeMethod::linear}, {kLinear2, 4096, RopeMethod::dynamic},
      {kDynamic2, 4096, RopeMethod::dynamic}, {kYarn2, 4096, RopeMethod::yarn},     {kLlama8, 131072, RopeMethod::llama3}};
  for (const Cell& cell : cells) {
    const ModelConfig base = base_with(cell.base, cell.max_position);
    const RopeExtension e = extend_rope(base, method(cell.method), 262144);
    const ModelConfig back = parse_model_config(write_model_config(base, e, "bfloat16", false, "0.1.0"), "written");
    EXPECT_EQ(back.rope, e.after);
    EXPECT_EQ(back.max_position, e.new_max_position);
    EXPECT_EQ(back.declared_context, e.new_context);
    EXPECT_EQ(rope_frequencies(back.rope, 128, back.max_position, 262144), rope_frequencies(e.after, 128, e.new_max_position, 262144));
    EXPECT_FALSE(extend_rope(back, method(cell.method), 262144).changed) << "an export is native at its own length";
  }
}

}  // namespace
}  // namespace longlora
