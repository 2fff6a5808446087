// Equalities that need no oracle: policies, tiles, splits, groups, documents, adapters that do nothing, tokens that nobody sees.
#include <gtest/gtest.h>

#include "model/tiny_model.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

/// Losses, gradients and parameters of `steps` plain gradient steps, as one list of tensors.
std::vector<at::Tensor> run_steps(LlamaModel& model, const TinyBatch& batch, int steps) {
  std::vector<at::Tensor> history;
  for (int step = 0; step < steps; ++step) {
    zero_gradients(model);
    const LossSum loss = accumulate_gradients(model, batch.input, 0.01f);
    at::Tensor bits = at::empty({1}, at::TensorOptions().dtype(at::kDouble));
    bits.data_ptr<double>()[0] = loss.nll_sum;
    history.push_back(bits);
    for (const auto& [name, gradient] : gradients_of(model)) history.push_back(gradient);
    model.visit([&](Parameter& p) {
      if (!p.trainable) return;
      p.master.sub_(p.grad);
      if (p.weight.scalar_type() != at::kFloat) p.weight.copy_(p.master);
      history.push_back(p.master.clone());
    });
  }
  return history;
}

bool all_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return true;
}

TEST(Policies, KeepDifferentThingsAndComputeTheSameBits) {
  using enum KeepPolicy;
  const std::vector<LayerPolicy> mixes[] = {{save_all, save_all, save_all},
                                            {save_attention, save_attention, save_attention},
                                            {checkpoint, checkpoint, checkpoint},
                                            {checkpoint, save_attention, save_all}};
  struct Setting {
    TrainConfig::Tuning tuning;
    AttentionSettings attention;
    int64_t row_tile;
    ComputeType compute;
  };
  TrainConfig::Tuning dropped = lora_tuning(all_targets());
  dropped.lora.drop_probability = 0.2;
  const AttentionSettings s2{AttentionKind::s2, AttentionPattern::cross_heads, 16};
  const Setting settings[] = {{lora_tuning(), s2, 16, ComputeType::fp32},
                              {lora_tuning(all_targets()), {}, 4096, ComputeType::fp32},
                              {full_tuning(), s2, 7, ComputeType::fp32},
                              {dropped, s2, 16, ComputeType::fp32},
                              {lora_tuning(), s2, 16, ComputeType::bf16}};
  for (const Setting& setting : settings) {
    const ModelConfig config = tiny_config({.layers = 3});
    const TinyBatch batch(2, 70, config.vocab_size);
    std::vector<at::Tensor> first;
    for (const std::vector<LayerPolicy>& mix : mixes) {
      auto model = make_model(config, {.compute = setting.compute, .tuning = setting.tuning, .row_tile = setting.row_tile});
      model->set_attention(setting.attention);
      model->set_policies(mix);
      const std::vector<at::Tensor> history = run_steps(*model, batch, 3);
      if (first.empty()) first = history;
      EXPECT_TRUE(all_same_bits(first, history)) << "row tile " << setting.row_tile;
    }
  }
}

void expect_close_gradients(LlamaModel& model, const std::map<std::string, at::Tensor>& expected) {
  for (const auto& [name, gradient] : gradients_of(model))
    EXPECT_LT(relative_error(doubles(gradient), doubles(expected.at(name))), model_gradient_error()) << name;
}

TEST(Tiles, RowTileAndLossChunkChangeRoundingOnly) {
  const ModelConfig config = tiny_config({});
  const TinyBatch batch(2, 45, config.vocab_size);
  std::map<std::string, at::Tensor> expected;
  for (const ModelOptions& options : {ModelOptions{.tuning = lora_tuning()}, ModelOptions{.tuning = lora_tuning(), .row_tile = 16},
                                      ModelOptions{.tuning = lora_tuning(), .loss_chunk_rows = 5}}) {
    auto model = make_model(config, options);
    model->set_attention({AttentionKind::s2, AttentionPattern::cross_heads, 16});
    accumulate_gradients(*model, batch.input);
    if (expected.empty()) expected = gradients_of(*model);
    expect_close_gradients(*model, expected);
  }
}

TEST(MicroBatches, SplitsAgreeToRounding) {
  const ModelConfig config = tiny_config({.tied = true});
  const TinyBatch batch(4, 19, config.vocab_size);
  std::map<std::string, at::Tensor> expected;
  double expected_loss = 0;
  for (const int64_t rows : {4, 2, 1}) {
    auto model = make_model(config, {.tuning = full_tuning()});
    double loss = 0;
    for (int64_t first = 0; first < 4; first += rows) {
      ModelInput part;
      part.ids_BT = batch.input.ids_BT.narrow(0, first, rows);
      part.labels_BT = batch.input.labels_BT.narrow(0, first, rows);
      loss += accumulate_gradients(*model, part).nll_sum;
    }
    if (rows == 4) expected = gradients_of(*model), expected_loss = loss;
    EXPECT_NEAR(loss / expected_loss, 1.0, near(DType::f32, 16));
    expect_close_gradients(*model, expected);
  }
}

TEST(Attention, GroupOfTwiceTheLengthEqualsFullBitForBit) {
  const ModelConfig config = tiny_config({.heads = 5, .kv_heads = 5});
  const TinyBatch batch(2, 23, config.vocab_size);
  std::vector<at::Tensor> full;
  for (const AttentionSettings& s : {AttentionSettings{}, AttentionSettings{AttentionKind::s2, AttentionPattern::cross_heads, 46},
                                     AttentionSettings{AttentionKind::s2, AttentionPattern::shifted_only, 1000}}) {
    auto model = make_model(config, {.tuning = lora_tuning(), .row_tile = 16});
    model->set_attention(s);
    const std::vector<at::Tensor> history = run_steps(*model, batch, 2);
    if (full.empty()) full = history;
    EXPECT_TRUE(all_same_bits(full, history)) << "group " << s.group;
  }
}

TEST(Lora, ZeroBEqualsTheBaseBitForBit) {
  for (const int64_t tokens : {20, 150}) {  // skinny products, merged weights
    const ModelConfig config = tiny_config({});
    const TinyBatch batch(1, tokens, config.vocab_size);
    auto base = make_model(config, {.tuning = {.mode = TuningMode::none}}),
         adapted = make_model(config, {.tuning = lora_tuning(all_targets())});
    adapted->visit([](Parameter& p) {
      if (p.name.ends_with("lora_B.weight")) p.weight.zero_();
    });
    EXPECT_TRUE(same_bits(base->logits(batch.input), adapted->logits(batch.input)));
    EXPECT_TRUE(base->trainable().empty());
  }
}

TEST(Documents, PackedEqualsSeparate) {
  const ModelConfig config = tiny_config({});
  TinyBatch packed(1, 30, config.vocab_size);
  packed.labels[11] = kIgnoredLabel;  // the last token of the first document predicts nothing
  packed.refresh(1);
  packed.input.document_starts = {{0, 12}};
  for (const AttentionSettings& s : {AttentionSettings{}, AttentionSettings{AttentionKind::s2, AttentionPattern::cross_heads, 8}}) {
    auto model = make_model(config, {.tuning = lora_tuning()});
    model->set_attention(s);
    const double together = accumulate_gradients(*model, packed.input).nll_sum;
    const std::map<std::string, at::Tensor> expected = gradients_of(*model);
    zero_gradients(*model);
    double apart = 0;
    for (const auto [begin, length] : {std::pair<int64_t, int64_t>{0, 12}, {12, 18}}) {
      ModelInput one;
      one.ids_BT = packed.input.ids_BT.narrow(1, begin, length).contiguous();
      one.labels_BT = packed.input.labels_BT.narrow(1, begin, length).contiguous();
      apart += accumulate_gradients(*model, one).nll_sum;
    }
    EXPECT_NEAR(together / apart, 1.0, near(DType::f32, 16));
    expect_close_gradients(*model, expected);
  }
}

/// reach[t][u]: can token u change the logits at t? The union of all heads' patterns, composed over the layers.
std::vector<std::vector<bool>> reachable(const Reference& reference, int64_t tokens) {
  const auto n = static_cast<size_t>(tokens);
  std::vector<std::vector<bool>> reach(n, std::vector<bool>(n, false));
  for (size_t t = 0; t < n; ++t) reach[t][t] = true;
  for (int64_t layer = 0; layer < reference.config.num_layers; ++layer) {
    std::vector<std::vector<bool>> next(n, std::vector<bool>(n, false));
    for (size_t t = 0; t < n; ++t)
      for (size_t s = 0; s < n; ++s) {
        bool sees = s == t;
        for (int64_t h = 0; h < reference.config.num_heads; ++h)
          sees = sees || reference.visible(layer, h, 0, tokens, static_cast<int64_t>(t), static_cast<int64_t>(s));
        if (!sees) continue;
        for (size_t u = 0; u < n; ++u)
          if (reach[s][u]) next[t][u] = true;
      }
    reach = next;
  }
  return reach;
}

TEST(NoLeak, ATokenThatIsNotVisibleChangesNoBit) {
  std::mt19937 generator(17);
  int64_t untouched = 0, changed = 0;
  for (int round = 0; round < 40; ++round) {
    const auto pick = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(generator() % static_cast<uint32_t>(high - low + 1));
    };
    const int64_t ratio = pick(1, 3), kv_heads = pick(1, 3), tokens = pick(2, 160);
    const ModelConfig config = tiny_config({.heads = ratio * kv_heads, .kv_heads = kv_heads, .layers = pick(1, 2)});
    Reference reference{config, {}, {AttentionKind::s2, static_cast<AttentionPattern>(pick(0, 3)), 2 * pick(1, tokens)}, {}, {}};
    if (round % 8 == 0) reference.attention = {};
    auto model = make_model(config, {.tuning = {.mode = TuningMode::none}, .row_tile = 32});
    model->set_attention(reference.attention);
    TinyBatch batch(1, tokens, config.vocab_size, static_cast<uint32_t>(round));
    const at::Tensor before = model->logits(batch.input)[0];
    const int64_t u = pick(0, tokens - 1);
    batch.ids[static_cast<size_t>(u)] = (batch.ids[static_cast<size_t>(u)] + 1) % static_cast<int32_t>(config.vocab_size);
    batch.refresh(1);
    const at::Tensor after = model->logits(batch.input)[0];
    const std::vector<std::vector<bool>> reach = reachable(reference, tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      const bool same = same_bits(before[t], after[t]);
      if (!reach[static_cast<size_t>(t)][static_cast<size_t>(u)]) {
        ASSERT_TRUE(same) << "round " << round << " T " << tokens << " g " << reference.attention.group << " token " << u << " leaks into "
                          << t;
        ++untouched;
      } else {
        changed += same ? 0 : 1;
      }
    }
  }
  EXPECT_GT(untouched, 1000);
  EXPECT_GT(changed, 500);
}

}  // namespace
}  // namespace longlora::test
