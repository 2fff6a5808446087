// What attention must satisfy whatever its implementation: identities between calls, most of them to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/support/attention_run.h"
#include "kernels/support/sweep.h"
#include "kernels/support/tolerance.h"

namespace longlora::testing {
namespace {

using kernels::ElementType;

AttentionOutputs run(const AttentionCase& c, const AttentionInputs& in, ElementType type = ElementType::bf16, Placement placement = {}) {
  AttentionRun run(c, type, in, placement);
  run.forward();
  run.backward();
  return run.outputs();
}

size_t index(int64_t row, int64_t tokens, int64_t token, int64_t width) { return static_cast<size_t>((row * tokens + token) * width); }

/// Tokens [begin, end) of row `row`.
std::vector<float> slice(const std::vector<float>& x, int64_t row, int64_t tokens, int64_t width, int64_t begin, int64_t end) {
  const auto at = [&](int64_t t) { return x.begin() + static_cast<std::ptrdiff_t>(index(row, tokens, t, width)); };
  return {at(begin), at(end)};
}

AttentionInputs slice(const AttentionCase& c, const AttentionInputs& in, int64_t row, int64_t begin, int64_t end) {
  const int64_t q = c.heads * c.head_size, k = c.kv_heads * c.head_size;
  return {slice(in.q, row, c.tokens, q, begin, end), slice(in.k, row, c.tokens, k, begin, end), slice(in.v, row, c.tokens, k, begin, end),
          slice(in.d_o, row, c.tokens, q, begin, end)};
}

AttentionCase row_of(AttentionCase c, int64_t tokens) {
  c.rows = 1;
  c.tokens = tokens;
  c.document_starts.clear();
  return c;
}

TEST(Attention, GroupOfTwiceTheRowIsFullAttentionToTheBit) {
  for (const int64_t T : {1, 65, 200}) {
    AttentionCase c{2, T, 2 * T, 4, 2, 2, 64, false, {}};
    const AttentionInputs in = random_inputs(c, ElementType::bf16, 1);
    const AttentionOutputs s2 = run(c, in);
    c.num_plain = c.heads;
    c.group = int64_t{1} << 20;
    EXPECT_TRUE(run(c, in) == s2) << "T " << T;
  }
}

TEST(Attention, ShiftedHeadsStillSplitWhenTheGroupIsTheRow) {
  AttentionCase c{1, 128, 128, 2, 2, 1, 64, false, {}};
  const AttentionInputs in = random_inputs(c, ElementType::bf16, 1);
  const AttentionOutputs s2 = run(c, in);
  c.group = 256;
  EXPECT_FALSE(run(c, in) == s2);
}

TEST(Attention, ATokenOutsideASegmentChangesNoBit) {
  const AttentionCase c{1, 200, 64, 4, 2, 2, 64, false, {}};
  AttentionInputs in = random_inputs(c, ElementType::bf16, 2);
  const AttentionOutputs before = run(c, in);
  const int64_t token = 70, q = c.heads * c.head_size, k = c.kv_heads * c.head_size;
  for (int64_t i = 0; i < k; ++i) {
    in.k[index(0, c.tokens, token, k) + static_cast<size_t>(i)] += 1.0f;
    in.v[index(0, c.tokens, token, k) + static_cast<size_t>(i)] -= 1.0f;
  }
  const AttentionOutputs after = run(c, in);
  for (int64_t h = 0; h < c.heads; ++h) {
    const std::vector<int64_t> numbers = group_numbers(c.tokens, c.group, h >= c.num_plain, {});
    for (int64_t t = 0; t < c.tokens; ++t) {
      const size_t at = index(0, c.tokens, t, q) + static_cast<size_t>(h * c.head_size);
      const bool same =
          std::equal(before.o.begin() + static_cast<std::ptrdiff_t>(at), before.o.begin() + static_cast<std::ptrdiff_t>(at) + c.head_size,
                     after.o.begin() + static_cast<std::ptrdiff_t>(at));
      const bool sees = t >= token && numbers[static_cast<size_t>(t)] == numbers[static_cast<size_t>(token)];
      EXPECT_EQ(same, !sees) << "head " << h << " token " << t;
    }
  }
}

TEST(Attention, APackedDocumentIsTheDocumentAlone) {
  // at a multiple of the tiles to the bit, elsewhere to rounding
  for (const int64_t offset : {128, 37}) {
    AttentionCase c{1, 300, 64, 4, 2, 2, 64, false, {{0, offset}}};
    const AttentionInputs in = random_inputs(c, ElementType::bf16, 3);
    const AttentionOutputs packed = run(c, in);
    const AttentionOutputs alone = run(row_of(c, c.tokens - offset), slice(c, in, 0, offset, c.tokens));
    const std::vector<float> part = slice(packed.o, 0, c.tokens, c.heads * c.head_size, offset, c.tokens);
    const std::vector<float> gradient = slice(packed.d_k, 0, c.tokens, c.kv_heads * c.head_size, offset, c.tokens);
    if (offset % kernels::kAttentionTile == 0) {
      EXPECT_EQ(part, alone.o);
      EXPECT_EQ(gradient, alone.d_k);
      continue;
    }
    for (size_t i = 0; i < part.size(); ++i) EXPECT_NEAR(part[i], alone.o[i], near(ElementType::bf16, 1) * (1 + std::abs(alone.o[i])));
  }
}

TEST(Attention, RowsOfABatchAreCallsOfTheirOwn) {
  const AttentionCase c{3, 150, 64, 9, 3, 4, 64, false, {}};
  const AttentionInputs in = random_inputs(c, ElementType::fp16, 4);
  const AttentionOutputs all = run(c, in, ElementType::fp16);
  for (int64_t b = 0; b < c.rows; ++b) {
    const AttentionOutputs one = run(row_of(c, c.tokens), slice(c, in, b, 0, c.tokens), ElementType::fp16);
    EXPECT_EQ(slice(all.o, b, c.tokens, c.heads * c.head_size, 0, c.tokens), one.o);
    EXPECT_EQ(slice(all.d_q, b, c.tokens, c.heads * c.head_size, 0, c.tokens), one.d_q);
    EXPECT_EQ(slice(all.d_v, b, c.tokens, c.kv_heads * c.head_size, 0, c.tokens), one.d_v);
  }
}

TEST(Attention, PaddingOnTheRightChangesNoBit) {
  const AttentionCase c{1, 200, 64, 2, 1, 1, 64, false, {}};
  AttentionInputs in = random_inputs(c, ElementType::bf16, 5);
  const int64_t valid = 130;
  std::fill(in.d_o.begin() + static_cast<std::ptrdiff_t>(index(0, c.tokens, valid, c.heads * c.head_size)), in.d_o.end(), 0.0f);
  const AttentionOutputs padded = run(c, in);
  const AttentionOutputs alone = run(row_of(c, valid), slice(c, in, 0, 0, valid));
  EXPECT_EQ(slice(padded.o, 0, c.tokens, c.heads * c.head_size, 0, valid), alone.o);
  EXPECT_EQ(slice(padded.d_q, 0, c.tokens, c.heads * c.head_size, 0, valid), alone.d_q);
  EXPECT_EQ(slice(padded.d_k, 0, c.tokens, c.kv_heads * c.head_size, 0, valid), alone.d_k);
  const std::vector<float> rest = slice(padded.d_k, 0, c.tokens, c.kv_heads * c.head_size, valid, c.tokens);
  EXPECT_TRUE(std::all_of(rest.begin(), rest.end(), [](float x) { return x == 0.0f; }));
}

TEST(Attention, ConstantValuesComeBack) {
  const AttentionCase c{1, 150, 64, 2, 1, 1, 128, false, {}};
  AttentionInputs in = random_inputs(c, ElementType::bf16, 6);
  std::fill(in.v.begin(), in.v.end(), 1.0f);
  for (const float x : run(c, in).o) EXPECT_NEAR(x, 1.0f, 0x1p-7);
}

TEST(Attention, EqualKeysGiveNoQueryGradient) {
  const AttentionCase c{1, 100, 64, 2, 2, 1, 64, false, {}};
  AttentionInputs in = random_inputs(c, ElementType::bf16, 7);
  const int64_t k = c.kv_heads * c.head_size;
  for (int64_t t = 0; t < c.tokens; ++t) std::copy_n(in.k.begin(), k, in.k.begin() + static_cast<std::ptrdiff_t>(index(0, c.tokens, t, k)));
  for (const float x : run(c, in).d_q)
    EXPECT_NEAR(x, 0.0f, 0.2f * attention_tolerance(ElementType::bf16, AttentionOutput::d_q_or_k).largest);
}

TEST(Attention, GradientsOfValuesAddUpToThoseOfOutputs) {  // sum over u of dV[u] is the sum over t of dO[t], rows of P add up to 1
  const AttentionCase c{1, 120, 64, 1, 1, 0, 64, false, {}};
  const AttentionInputs in = random_inputs(c, ElementType::fp16, 8);
  const AttentionOutputs out = run(c, in, ElementType::fp16);
  for (int64_t d = 0; d < c.head_size; ++d) {
    double values = 0, outputs = 0;
    for (int64_t t = 0; t < c.tokens; ++t) {
      values += static_cast<double>(out.d_v[index(0, c.tokens, t, c.head_size) + static_cast<size_t>(d)]);
      outputs += static_cast<double>(in.d_o[index(0, c.tokens, t, c.head_size) + static_cast<size_t>(d)]);
    }
    EXPECT_NEAR(values, outputs, near(ElementType::fp16, c.tokens) * 4);
  }
}

TEST(Attention, WindowsGiveTheBitsOfTheWhole) {
  // windows cut at multiples of the tiles, keys only as far back as the window sees, dK and dV carried in fp32 from later windows
  for (const ElementType type : {ElementType::bf16, ElementType::fp32}) {
    const int64_t T = type == ElementType::fp32 ? 150 : 400;  // the plain kernel is slow in the emulator
    for (const auto& documents : {std::vector<std::vector<int64_t>>{}, std::vector<std::vector<int64_t>>{{0, 100, 131}}}) {
      const AttentionCase c{1, T, 256, 3, 1, 1, 64, false, documents};
      const AttentionInputs in = random_inputs(c, type, 9);
      const AttentionOutputs whole = run(c, in, type);
      const std::vector<int64_t> cuts = T == 400 ? std::vector<int64_t>{0, 128, 384, 400} : std::vector<int64_t>{0, 128, 150};
      AttentionRun streamed(c, type, in);
      streamed.forward_in_windows(cuts);
      streamed.backward_in_windows(cuts);
      EXPECT_TRUE(streamed.outputs() == whole);
    }
  }
}

TEST(Attention, WritesInPlace) {
  const AttentionCase c{2, 150, 64, 4, 2, 2, 128, false, {}};
  const AttentionInputs in = random_inputs(c, ElementType::bf16, 10);
  const AttentionOutputs apart = run(c, in);
  AttentionRun o_over_q(c, ElementType::bf16, in, {.o_over_q = true});
  o_over_q.forward();
  AttentionRun d_q_over_q(c, ElementType::bf16, in, {.d_q_over_q = true});
  d_q_over_q.forward();
  d_q_over_q.backward();
  EXPECT_EQ(o_over_q.outputs().o, apart.o);
  const AttentionOutputs out = d_q_over_q.outputs();
  EXPECT_EQ(out.d_q, apart.d_q);
  EXPECT_EQ(out.d_k, apart.d_k);
}

TEST(Attention, WrapAroundLeaksOnlyIntoTheFirstHalfGroup) {
  AttentionCase c{1, 256, 128, 2, 2, 1, 64, true, {}};
  AttentionInputs in = random_inputs(c, ElementType::bf16, 11);
  const AttentionOutputs before = run(c, in);
  const int64_t k = c.kv_heads * c.head_size;
  in.v[index(0, c.tokens, c.tokens - 1, k) + 64] += 8.0f;  // the shifted head, the last token
  const AttentionOutputs after = run(c, in);
  const int64_t q = c.heads * c.head_size;
  for (int64_t t = 0; t + 1 < c.tokens; ++t) {
    const size_t at = index(0, c.tokens, t, q) + 64;
    EXPECT_EQ(before.o[at] == after.o[at], t >= c.group / 2) << "token " << t;
  }
}

TEST(Attention, RefusesWhatItCannotDoByName) {
  using namespace kernels;
  float memory[8] = {};
  const S2Shape good{.type = ElementType::bf16,
                     .rows = 1,
                     .tokens = 16,
                     .group = 4,
                     .num_heads = 2,
                     .num_kv_heads = 1,
                     .num_plain = 1,
                     .head_size = 64,
                     .q_begin = 0,
                     .q_end = 16,
                     .k_begin = 0,
                     .k_end = 16};
  const HeadView view{memory, 0, 128, 64};
  const StatisticsView lse{memory, 0, 16};
  const auto refused = [&](S2Shape s, HeadView q, const char* argument) {
    const Launch l = s2_attention_forward(s, q, view, view, view, lse, nullptr);
    EXPECT_FALSE(l.ok());
    EXPECT_STREQ(l.argument, argument) << (l.problem ? l.problem : "");
  };
  const auto with = [&](auto change) {
    S2Shape s = good;
    change(s);
    return s;
  };
  refused(with([](S2Shape& s) { s.group = 5; }), view, "group");
  refused(with([](S2Shape& s) { s.group = 0; }), view, "group");
  refused(with([](S2Shape& s) { s.tokens = 0; }), view, "tokens");
  refused(with([](S2Shape& s) { s.tokens = int64_t{1} << 31; }), view, "tokens");
  refused(with([](S2Shape& s) { s.rows = 0; }), view, "rows");
  refused(with([](S2Shape& s) { s.num_heads = 3, s.num_kv_heads = 2; }), view, "num_heads");
  refused(with([](S2Shape& s) { s.num_plain = 3; }), view, "num_plain");
  refused(with([](S2Shape& s) { s.head_size = 80, s.variant = AttentionVariant::sm80; }), view, "head_size");
  refused(with([](S2Shape& s) { s.head_size = 300; }), view, "head_size");
  refused(with([](S2Shape& s) { s.type = ElementType::fp32, s.variant = AttentionVariant::sm80; }), view, "variant");
  refused(with([](S2Shape& s) { s.q_end = 17; }), view, "q_begin");
  refused(with([](S2Shape& s) { s.k_begin = -1; }), view, "k_begin");
  refused(with([](S2Shape& s) { s.wraps = true, s.tokens = 18, s.q_end = s.k_end = 18; }), view, "wraps");
  refused(with([](S2Shape& s) { s.wraps = true, s.k_begin = 4; }), view, "wraps");
  refused(with([&](S2Shape& s) { s.document_begin = reinterpret_cast<const int32_t*>(memory); }), view, "document_begin");
  refused(good, {nullptr, 0, 128, 64}, "q");
  refused(good, {reinterpret_cast<char*>(memory) + 2, 0, 128, 64}, "q");
  refused(good, {memory, 0, 129, 64}, "q");
  EXPECT_EQ(attention_variant(good), AttentionVariant::sm80);
  EXPECT_EQ(attention_variant(with([](S2Shape& s) { s.type = ElementType::fp32; })), AttentionVariant::plain);
  EXPECT_STREQ(name_of(AttentionVariant::sm80), "sm80");
}

}  // namespace
}  // namespace longlora::testing
