// Loss, logits and gradients against the fp64 reference and its central differences.
#include <gtest/gtest.h>

#include "longlora/core/philox.h"
#include "model/tiny_model.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

struct Case {
  std::string name;
  TinyShape shape;
  TrainConfig::Tuning tuning;
  AttentionSettings attention;
  int64_t rows = 1, tokens = 21;
  std::vector<std::vector<int64_t>> document_starts;
};

std::vector<Case> cases() {
  const AttentionSettings full{}, s2{AttentionKind::s2, AttentionPattern::cross_heads, 8},
      layers{AttentionKind::s2, AttentionPattern::cross_layers, 6};
  TrainConfig::Tuning rslora = lora_tuning({LoraTarget::v_proj, LoraTarget::up_proj});
  rslora.lora.rslora = true;
  TrainConfig::Tuning with_head = lora_tuning();
  with_head.train_head = true;
  return {
      {"full tuning, GQA, full attention", {}, full_tuning(), full, 2, 9},
      {"full tuning, tied, s2", {.heads = 5, .kv_heads = 5, .head_dim = 6, .tied = true}, full_tuning(), s2},
      {"lora, 3:1, s2", {.heads = 3, .kv_heads = 1}, lora_tuning(), s2, 2, 13},
      {"lora on all seven, full", {}, lora_tuning(all_targets()), full},
      {"merged lora, long rows", {.layers = 1}, lora_tuning(all_targets()), s2, 1, 131},
      {"rslora on v and up, s2 by layers", {}, rslora, layers},
      {"lora and head, wrapped", {}, with_head, {AttentionKind::s2_wrap, AttentionPattern::cross_heads, 8}, 1, 16},
      {"documents, s2", {}, lora_tuning(), s2, 2, 21, {{0, 4, 17}, {0, 1}}},
  };
}

/// Two elements of every trainable tensor.
void expect_gradients(LlamaModel& model, const Reference& reference, const TinyBatch& batch, int64_t rows, const std::string& name) {
  Values values = values_of(model);
  std::mt19937 generator(11);
  model.visit([&](Parameter& p) {
    if (!p.trainable) return;
    const std::vector<double> gradient = doubles(p.grad);
    double scale = 0;
    for (double g : gradient) scale = std::max(scale, std::abs(g));
    for (int pick = 0; pick < 2; ++pick) {
      const size_t i = generator() % gradient.size();
      const double step = 1e-5, centre = values[p.name][i];
      values[p.name][i] = centre + step;
      const double up = reference.loss_sum(values, batch.ids, batch.labels, rows);
      values[p.name][i] = centre - step;
      const double down = reference.loss_sum(values, batch.ids, batch.labels, rows);
      values[p.name][i] = centre;
      EXPECT_NEAR(gradient[i], (up - down) / (2 * step), scale * model_gradient_error()) << name << ": " << p.name << "[" << i << "]";
    }
  });
}

void check(const Case& c, ModelOptions options) {
  options.tuning = c.tuning;
  const ModelConfig config = tiny_config(c.shape);
  auto model = make_model(config, options);
  model->set_attention(c.attention);
  TinyBatch batch(c.rows, c.tokens, config.vocab_size);
  batch.input.document_starts = c.document_starts;
  batch.input.step = 3;
  for (int64_t row = 0; row < c.rows; ++row) batch.input.global_rows.push_back(static_cast<uint32_t>(40 + row));
  Reference reference{config, c.tuning, c.attention, c.document_starts, {}};
  const double p_drop = c.tuning.lora.drop_probability;
  if (p_drop > 0)
    reference.dropout = [&](LoraTarget target, int64_t layer, int64_t row, int64_t element) {
      const PhiloxStream stream{.seed = options.seed,
                                .purpose = Purpose::lora_dropout,
                                .site = static_cast<uint8_t>(target),
                                .layer = static_cast<uint16_t>(layer),
                                .step = 3,
                                .row = static_cast<uint32_t>(40 + row)};
      const uint32_t word = stream.words(static_cast<uint32_t>(element / 4))[static_cast<size_t>(element % 4)];
      return uniform_from(word) < static_cast<float>(p_drop) ? 0.0 : 1.0 / (1.0 - p_drop);
    };
  const LossSum loss = accumulate_gradients(*model, batch.input);
  const double expected = reference.loss_sum(values_of(*model), batch.ids, batch.labels, c.rows);
  EXPECT_EQ(loss.targets, batch.targets);
  EXPECT_NEAR(loss.nll_sum / expected, 1.0, near(DType::f32, 100)) << c.name;
  expect_gradients(*model, reference, batch, c.rows, c.name);
  if (p_drop == 0) {
    EXPECT_LT(relative_error(doubles(model->logits(batch.input)), reference.logits(values_of(*model), batch.ids, c.rows)),
              model_gradient_error())
        << c.name;
  }
}

TEST(Gradients, EqualCentralDifferencesOfTheReference) {
  for (const Case& c : cases()) check(c, {.row_tile = 16});
}

TEST(Gradients, DropoutOfEveryTargetIsRecomputedInBackward) {
  Case c = cases()[3];
  c.tuning.lora.drop_probability = 0.3;
  c.rows = 2;
  c.tokens = 11;
  check(c, {.row_tile = 16});
}

TEST(Gradients, Bf16FollowsTheReferenceLoosely) {
  for (const size_t which : {size_t{0}, size_t{3}}) {
    const Case c = cases()[which];
    const ModelConfig config = tiny_config(c.shape);
    TinyBatch batch(c.rows, c.tokens, config.vocab_size);
    std::map<std::string, at::Tensor> gradients[2];
    double losses[2] = {0, 0};
    for (const int i : {0, 1}) {
      auto model = make_model(config, {.compute = i == 0 ? ComputeType::fp32 : ComputeType::bf16, .tuning = c.tuning, .row_tile = 16});
      model->visit([](Parameter& p) {  // sharp attention would magnify the rounding of q and k
        if (p.role != Role::lora && p.role != Role::projection) return;
        p.weight.mul_(0.5);
        if (p.master.defined()) p.master.copy_(p.weight);
      });
      losses[i] = accumulate_gradients(*model, batch.input).nll_sum;
      gradients[i] = gradients_of(*model);
    }
    EXPECT_NEAR(losses[1] / losses[0], 1.0, 0.02);
    for (const auto& [name, expected] : gradients[0]) {
      const double scale = expected.norm().item<double>();
      EXPECT_LT((gradients[1][name] - expected).norm().item<double>(), 0.1 * scale) << name;
    }
  }
}

}  // namespace
}  // namespace longlora::test
