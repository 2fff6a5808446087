// Layers block by block, inputs that wait on the host: what policies, streaming and offloading change is memory, never a bit; and memory is
// what the planner's table says.
#include <gtest/gtest.h>

#include "longlora/config/run_plan.h"
#include "model/tiny_model.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

using enum KeepPolicy;

/// Loss and gradients of one micro-batch, and the most that was in use at the same time.
struct Outcome {
  double loss = 0;
  std::map<std::string, at::Tensor> gradients;
  int64_t activation_bytes = 0;
};

Outcome outcome_of(LlamaModel& model, const ModelInput& input, const std::vector<LayerPolicy>& policies) {
  model.set_policies(policies);
  model.release();
  zero_gradients(model);
  Outcome outcome;
  outcome.loss = accumulate_gradients(model, input, 0.01f).nll_sum;
  outcome.gradients = gradients_of(model);
  outcome.activation_bytes = model.activation_peak_bytes();
  return outcome;
}

bool same_bits(const Outcome& a, const Outcome& b) {
  if (a.loss != b.loss || a.gradients.size() != b.gradients.size()) return false;
  return std::ranges::all_of(a.gradients, [&](const auto& g) { return test::same_bits(g.second, b.gradients.at(g.first)); });
}

std::vector<LayerPolicy> all_policies() {
  std::vector<LayerPolicy> policies;
  for (const KeepPolicy keep : {checkpoint, save_attention, save_all})
    for (const bool streamed : {false, true})
      for (const bool offloaded : {false, true}) policies.emplace_back(keep, streamed, offloaded);
  return policies;
}

struct StreamCase {
  int64_t heads, kv_heads, rows, tokens, group;
  AttentionPattern pattern = AttentionPattern::cross_heads;
  ComputeType compute = ComputeType::fp32;
  TrainConfig::Tuning tuning = lora_tuning();
};

std::ostream& operator<<(std::ostream& out, const StreamCase& c) {
  return out << c.heads << " heads, " << c.kv_heads << " KV heads, " << c.rows << " x " << c.tokens << " tokens, group " << c.group
             << ", pattern " << static_cast<int>(c.pattern) << (c.compute == ComputeType::bf16 ? ", bf16" : "");
}

TrainConfig::Tuning with_dropout() {
  TrainConfig::Tuning tuning = lora_tuning(all_targets());
  tuning.lora.drop_probability = 0.25;
  return tuning;
}

/// Attention adds the queries of a key in blocks of 512: half-groups are multiples of it.
class Streaming : public testing::TestWithParam<StreamCase> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Streaming,
                         testing::Values(StreamCase{4, 4, 1, 2048, 1024}, StreamCase{8, 2, 1, 2300, 1024}, StreamCase{9, 3, 1, 1537, 1024},
                                         StreamCase{6, 2, 2, 1100, 1024}, StreamCase{5, 1, 1, 2049, 1024}, StreamCase{4, 2, 1, 1500, 2048},
                                         StreamCase{4, 2, 1, 1500, 1024, AttentionPattern::cross_layers},
                                         StreamCase{4, 2, 2, 1030, 1024, AttentionPattern::plain_only},
                                         StreamCase{4, 2, 1, 1700, 1024, AttentionPattern::shifted_only},
                                         StreamCase{6, 3, 1, 1700, 1024, AttentionPattern::cross_heads, ComputeType::bf16},
                                         StreamCase{4, 2, 1, 1100, 1024, AttentionPattern::cross_heads, ComputeType::fp32, full_tuning()},
                                         StreamCase{4, 2, 2, 1100, 1024, AttentionPattern::cross_heads, ComputeType::bf16, full_tuning()},
                                         StreamCase{4, 2, 1, 1100, 1024, AttentionPattern::cross_heads, ComputeType::fp32,
                                                    with_dropout()}));

std::unique_ptr<LlamaModel> model_of(const StreamCase& c) {
  const ModelConfig config = tiny_config({.heads = c.heads, .kv_heads = c.kv_heads, .layers = 3});
  auto model = make_model(config, {.compute = c.compute, .tuning = c.tuning, .row_tile = 200});
  model->set_attention({AttentionKind::s2, c.pattern, c.group});
  return model;
}

TEST_P(Streaming, ChangesNoBit) {
  auto model = model_of(GetParam());
  const TinyBatch batch(GetParam().rows, GetParam().tokens, 37);
  const Outcome expected = outcome_of(*model, batch.input, {3, save_all});
  for (const LayerPolicy& policy : all_policies())
    EXPECT_TRUE(same_bits(outcome_of(*model, batch.input, {3, policy}), expected)) << name_of(policy);
  const std::vector<LayerPolicy> mixes[] = {
      {{checkpoint, true, true}, {checkpoint, false, false}, {save_all, true, false}},
      {{save_attention, false, true}, {checkpoint, true, true}, {checkpoint, false, true}},
      {{save_all, true, false}, {checkpoint, false, true}, {save_attention, true, true}},
  };
  for (const std::vector<LayerPolicy>& mix : mixes)
    EXPECT_TRUE(same_bits(outcome_of(*model, batch.input, mix), expected)) << name_of(mix[0]);
}

TEST_P(Streaming, UsesTheBytesOfThePlannersTable) {
  const StreamCase& c = GetParam();
  auto model = model_of(c);
  const TinyBatch batch(c.rows, c.tokens, 37);
  for (const LayerPolicy& policy : all_policies()) {
    LayerShape shape = layer_shape(model->config(), c.tuning);
    shape.rows = c.rows, shape.tokens = c.tokens, shape.row_tile = 200;
    shape.block = stream_block(AttentionKind::s2, c.group, c.tokens, false, false, 200);
    if (c.group / 2 >= 200 && c.group == 1024) shape.row_tile = 256;  // three tiles of 171 rows, rounded up to 128
    if (c.group == 2048) shape.row_tile = 256;                        // 1,024 rows in six tiles of 171, rounded
    shape.element_bytes = c.compute == ComputeType::bf16 ? 2 : 4;
    shape.carry_heads = most_carry_heads(model->config(), c.pattern);
    shape.merged = c.compute == ComputeType::fp32 && c.tuning.lora.drop_probability == 0 && c.tuning.mode == TuningMode::lora;
    const std::vector<LayerPolicy> policies(3, policy);
    const bool head_trained = c.tuning.mode == TuningMode::full;
    const ActivationPeak planned = training_peak(shape, policies, {.chunk_rows = 200, .vocabulary = 37, .head_trained = head_trained});
    EXPECT_EQ(outcome_of(*model, batch.input, policies).activation_bytes, planned.total()) << name_of(policy);
  }
}

TEST(StreamedLayers, AgreeToRoundingWhereHalfGroupsAreNoMultipleOfTheTiles) {
  for (const int64_t group : {402, 800, 1000}) {
    auto model = model_of({4, 2, 2, 1777, group});
    const TinyBatch batch(2, 1777, 37);
    const Outcome whole = outcome_of(*model, batch.input, {3, checkpoint}),
                  streamed = outcome_of(*model, batch.input, {3, {checkpoint, true}});
    EXPECT_EQ(streamed.loss, whole.loss);
    for (const auto& [name, gradient] : streamed.gradients)
      EXPECT_LT(relative_error(doubles(gradient), doubles(whole.gradients.at(name))), 1e-6) << name << ", group " << group;
  }
}

TEST(StreamedLayers, NeedNoMoreForLongerRowsOfTheSameGroup) {
  std::vector<int64_t> beside;
  for (const int64_t tokens : {1600, 3200}) {
    auto model = model_of({4, 2, 1, tokens, 1024});
    const TinyBatch batch(1, tokens, 37);
    const int64_t of_rows = tokens * 24 * 4 * 4 + tokens * 4;  // inputs of three layers, the hidden state, a loss a token
    beside.push_back(outcome_of(*model, batch.input, {3, {checkpoint, true}}).activation_bytes - of_rows);
  }
  EXPECT_NEAR(static_cast<double>(beside[0]), static_cast<double>(beside[1]), 0.01 * static_cast<double>(beside[0]));
}

TEST(StreamedLayers, AreComputedWholeWhereRowsCannotBeStreamed) {
  auto model = model_of({4, 2, 1, 700, 1024});
  for (const AttentionSettings& attention : {AttentionSettings{}, AttentionSettings{AttentionKind::s2, AttentionPattern::cross_heads, 300},
                                             AttentionSettings{AttentionKind::s2_wrap, AttentionPattern::cross_heads, 700}}) {
    model->set_attention(attention);
    const TinyBatch batch(1, 700, 37);
    EXPECT_TRUE(same_bits(outcome_of(*model, batch.input, {3, checkpoint}), outcome_of(*model, batch.input, {3, {checkpoint, true}})));
  }
}

}  // namespace
}  // namespace longlora::test
