#include "longlora/train/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "support/error_of.h"
#include "support/tolerances.h"
#include "train/tiny_run.h"

namespace longlora {
namespace {

/// Scores every token with the first window that contains its prediction, walking token by token.
std::vector<int> scores_of(const std::vector<EvaluationWindow>& windows, uint64_t tokens) {
  std::vector<int> times(tokens);
  for (const EvaluationWindow& w : windows) {
    EXPECT_LE(w.end, tokens);
    EXPECT_GE(w.scored_from, w.begin + 1);
    for (uint64_t t = w.scored_from; t < w.end; ++t) ++times[t];
  }
  return times;
}

TEST(SlidingWindows, ScoreEveryTokenButTheFirstExactlyOnce) {
  for (uint64_t tokens : {2, 3, 7, 16, 17, 63, 64, 65, 1000}) {
    for (uint64_t context : {2, 3, 8, 16, 64, 2000}) {
      for (uint64_t stride : {uint64_t{1}, context / 2, context - 1}) {
        std::vector<int> want(tokens, 1);
        want[0] = 0;
        EXPECT_EQ(scores_of(sliding_windows(tokens, context, stride), tokens), want) << tokens << " " << context << " " << stride;
      }
    }
  }
}

TEST(SlidingWindows, LaterWindowsHaveAtLeastContextMinusStrideTokensBefore) {
  const auto windows = sliding_windows(1000, 64, 16);
  for (size_t i = 1; i < windows.size(); ++i) {
    EXPECT_EQ(windows[i].begin, 16 * i);
    EXPECT_EQ(windows[i].scored_from - windows[i].begin, 48u);
  }
  EXPECT_EQ(windows.back().end, 1000u);
}

TEST(SlidingWindows, ShortTextsGiveOneWindow) {
  EXPECT_TRUE(sliding_windows(1, 8, 4).empty());
  const auto windows = sliding_windows(5, 8, 4);
  ASSERT_EQ(windows.size(), 1u);
  EXPECT_EQ(windows[0].end, 5u);
}

TEST(LongloraWindows, StartEvery256AndDropTheLast) {
  // the original: starts = arange(0, N - T, 256), the last one dropped
  const auto windows = longlora_windows(2000, 512);
  ASSERT_EQ(windows.size(), 5u);  // 0 .. 1280 are six starts below 1488
  for (size_t i = 0; i < windows.size(); ++i) {
    EXPECT_EQ(windows[i].begin, 256 * i);
    EXPECT_EQ(windows[i].end, 256 * i + 512);
    EXPECT_EQ(windows[i].scored_from, windows[i].begin + 1);
  }
  EXPECT_TRUE(longlora_windows(512, 512).empty());
}

/// A model and a token stream to measure; the oracle is the model's own logits, window by window, in fp64.
class Perplexity : public testing::Test {
 protected:
  Perplexity() : config(parse_model_config(tiny_config_json(), "config.json")) {
    ModelOptions options;
    options.tuning.mode = TuningMode::none;
    model = std::make_unique<LlamaModel>(config, config.rope, config.max_position, 64, options);
    model->initialise_base();
    source = open_raw_uint16(dir.write("tokens.bin", tiny_tokens(150, 3)));
    ids.resize(source->num_tokens());
    source->read(0, ids);
  }

  /// Sum of -log p(token t | tokens of its window before t) over the scored tokens.
  double naive_nll(const std::vector<EvaluationWindow>& windows) {
    double sum = 0;
    for (const EvaluationWindow& w : windows) {
      std::vector<int32_t> row(ids.begin() + static_cast<int64_t>(w.begin), ids.begin() + static_cast<int64_t>(w.end));
      const int64_t length = static_cast<int64_t>(row.size());
      ModelInput input{.ids_BT = at::from_blob(row.data(), {1, length}, at::kInt), .global_rows = {0}};
      input.labels_BT = input.ids_BT;
      const at::Tensor logits = model->logits(input).contiguous();
      for (uint64_t t = w.scored_from; t < w.end; ++t)
        sum += token_nll(logits.const_data_ptr<float>() + (t - 1 - w.begin) * kTinyVocab, ids[t]);
    }
    return sum;
  }
  static double token_nll(const float* logits, int32_t id) {
    double sum = 0;
    for (int64_t v = 0; v < kTinyVocab; ++v) sum += std::exp(static_cast<double>(logits[v]));
    return std::log(sum) - logits[id];
  }

  TempDir dir;
  ModelConfig config;
  std::unique_ptr<LlamaModel> model;
  std::unique_ptr<TokenSource> source;
  std::vector<int32_t> ids;
};

TEST_F(Perplexity, EqualsTheSumOverNaiveWindows) {
  for (const auto& [context, stride] : {std::pair<int64_t, int64_t>{16, 8}, {32, 5}, {200, 100}}) {
    const PerplexityResult result = perplexity(*model, {source.get()}, {.context = context, .stride = stride});
    const double want = naive_nll(sliding_windows(150, static_cast<uint64_t>(context), static_cast<uint64_t>(stride)));
    EXPECT_EQ(result.tokens, 149);
    EXPECT_NEAR(result.nll, want, want * near(DType::f32, 24));
    EXPECT_DOUBLE_EQ(result.perplexity, std::exp(result.nll / 149));
  }
}

TEST_F(Perplexity, MaxTokensUsesTheFirstTokensOnly) {
  const PerplexityResult result = perplexity(*model, {source.get()}, {.context = 16, .max_tokens = 40});
  EXPECT_EQ(result.tokens, 39);
  const double want = naive_nll(sliding_windows(40, 16, 8));
  EXPECT_NEAR(result.nll, want, want * near(DType::f32, 24));
}

TEST_F(Perplexity, SourcesAddUpAndWindowsDoNotCrossThem) {
  const PerplexityResult one = perplexity(*model, {source.get()}, {.context = 16});
  const PerplexityResult two = perplexity(*model, {source.get(), source.get()}, {.context = 16});
  EXPECT_EQ(two.tokens, 2 * one.tokens);
  EXPECT_DOUBLE_EQ(two.nll, 2 * one.nll);
}

TEST_F(Perplexity, LongloraRuleIsAMeanOfWindowMeans) {
  const auto long_source = open_raw_uint16(dir.write("long.bin", tiny_tokens(900, 4)));
  ids.resize(900);
  long_source->read(0, ids);
  const auto windows = longlora_windows(900, 64);
  double mean = 0;
  for (const EvaluationWindow& w : windows) mean += naive_nll({w}) / 63 / static_cast<double>(windows.size());
  const PerplexityResult result = perplexity(*model, {long_source.get()}, {.context = 64, .rule = WindowRule::longlora});
  EXPECT_EQ(result.windows, static_cast<int64_t>(windows.size()));
  EXPECT_NEAR(std::log(result.perplexity), mean, mean * near(DType::f32, 24));
}

TEST_F(Perplexity, StopsWhenAsked) {
  int polls = 0;
  PerplexityOptions options{.context = 16};
  options.stop_requested = [&] { return ++polls > 2; };
  EXPECT_TRUE(perplexity(*model, {source.get()}, options).interrupted);
}

TEST_F(Perplexity, NamesWhatCannotBeMeasured) {
  EXPECT_THAT(error_of([&] { perplexity(*model, {source.get()}, {.context = 1}); }), testing::HasSubstr("nothing to predict"));
  EXPECT_THAT(error_of([&] { perplexity(*model, {source.get()}, {.context = 8, .stride = 8}); }),
              testing::HasSubstr("leaves tokens unscored between windows of 8"));
  EXPECT_THAT(error_of([&] { perplexity(*model, {source.get()}, {.context = 512, .rule = WindowRule::longlora}); }),
              testing::HasSubstr("too few tokens for a window of 512"));
}

}  // namespace
}  // namespace longlora
