// One sequence on several ranks of the fake device: the kernels' windows and carries, at edges that are tile edges and at others.
#include <gtest/gtest.h>

#include "device/taking_turns.h"
#include "longlora/config/sequence_parts.h"
#include "longlora/model/sequence.h"
#include "model/tiny_model.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

struct Case {
  std::string name;
  ComputeType compute = ComputeType::bf16;
  int64_t rows = 2, tokens = 61, group = 16;
  int ranks = 2;
};

std::unique_ptr<LlamaModel> model_of(const Case& c, dist::Communicator* group) {
  ModelOptions options{.compute = c.compute, .tuning = lora_tuning(all_targets()), .device = fake::device(), .row_tile = 32};
  options.tuning.train_embeddings = options.tuning.train_norms = true;
  options.tuning.lora.drop_probability = 0.2;
  auto model = make_model(tiny_config({.heads = 3, .kv_heads = 3, .head_dim = 64, .hidden = 48, .ffn = 40}), options);
  model->set_attention({.kind = AttentionKind::s2, .group = c.group});
  model->set_policies({KeepPolicy::checkpoint, KeepPolicy::save_all});
  model->set_sequence_group(group);
  return model;
}

struct Outcome {
  at::Tensor hidden;
  LossSum loss;
  std::map<std::string, at::Tensor> gradients;
};

Outcome run_model(LlamaModel& model, const ModelInput& input, dist::Communicator* group) {
  at::Tensor hidden = model.forward(input);
  Outcome result{hidden.cpu().clone(), model.loss_backward(hidden, input.labels_BT, 1.0f), {}};
  model.backward(hidden, input);
  if (group != nullptr) add_over_sequence_ranks(model.trainable(), result.loss, *group);
  EXPECT_TRUE(result.loss.pending.defined());
  settle(result.loss);
  for (const auto& [name, gradient] : gradients_of(model)) result.gradients[name] = gradient.cpu();
  return result;
}

Outcome run_parts(const Case& c, const TinyBatch& batch) {
  Outcome result;
  result.hidden = at::empty({c.rows, c.tokens, 48}, at::TensorOptions().dtype(c.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat));
  run_ranks(c.ranks, [&](dist::Communicator& threads) {
    const std::lock_guard mine(turn);
    TakingTurns group(threads);
    const SequencePart part = sequence_part(c.tokens, c.group, c.ranks, group.rank());
    ModelInput input = batch.input;
    input.ids_BT = batch.input.ids_BT.narrow(1, part.begin, part.tokens()).contiguous();
    input.labels_BT = batch.input.labels_BT.narrow(1, part.begin, part.tokens()).contiguous();
    input.first_position = part.begin;
    input.row_tokens = c.tokens;
    const Outcome own = run_model(*model_of(c, &group), input, &group);
    result.hidden.narrow(1, part.begin, part.tokens()).copy_(own.hidden);
    EXPECT_GT(group.device_messages, 0);
    if (group.rank() == 0) result.loss = own.loss, result.gradients = own.gradients;
  });
  return result;
}

class DeviceSequence : public testing::TestWithParam<Case> {};

TEST_P(DeviceSequence, LossAndGradientsAreThoseOfOneRank) {
  const Case& c = GetParam();
  TinyBatch batch(c.rows, c.tokens, 37);
  for (int64_t row = 0; row < c.rows; ++row) batch.input.global_rows.push_back(static_cast<uint32_t>(40 + row));
  const Outcome want = run_model(*model_of(c, nullptr), batch.input, nullptr), got = run_parts(c, batch);
  const bool bf16 = c.compute == ComputeType::bf16, aligned = c.group % 256 == 0;
  const double bound = device_model_error(bf16 ? DType::bf16 : DType::f32);
  EXPECT_EQ(got.loss.targets, want.loss.targets);
  EXPECT_NEAR(got.loss.nll_sum / want.loss.nll_sum, 1.0, bound);
  for (const auto& [name, gradient] : want.gradients)
    EXPECT_LT(relative_error(doubles(got.gradients.at(name)), doubles(gradient)), bound) << name;
  if (aligned) EXPECT_TRUE(same_bits(got.hidden, want.hidden));
}

INSTANTIATE_TEST_SUITE_P(All, DeviceSequence,
                         testing::Values(Case{"Bf16"}, Case{"Fp32", ComputeType::fp32, 1, 45, 16, 4},
                                         Case{"Bf16FourRanks", ComputeType::bf16, 1, 140, 70, 4},
                                         Case{"Bf16Aligned", ComputeType::bf16, 1, 250, 256, 2}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace longlora::test
