// The model on the fake device against the same model on the CPU: losses, every gradient, logits, generation.
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "device/arena.h"
#include "device/fake_device.h"
#include "model/offloaded_inputs.h"
#include "model/tiny_model.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

struct Case {
  std::string name;
  ComputeType compute = ComputeType::fp32;
  AttentionKind kind = AttentionKind::s2;
  bool documents = false, full_tuning = false, tied = false;
  KeepPolicy policy = KeepPolicy::checkpoint;
};

constexpr int64_t kRows = 2, kTokens = 64, kGroup = 16;

std::unique_ptr<LlamaModel> model_on(const at::Device& device, const Case& c) {
  ModelOptions options{.compute = c.compute, .tuning = c.full_tuning ? full_tuning() : lora_tuning(all_targets())};
  options.tuning.train_embeddings = options.tuning.train_norms = true;
  options.row_tile = 32;
  options.loss_chunk_rows = 24;
  options.device = device;
  auto model = make_model(tiny_config({.heads = 3, .kv_heads = 1, .head_dim = 64, .hidden = 48, .ffn = 40, .tied = c.tied}), options);
  model->set_attention({.kind = c.kind, .group = c.kind == AttentionKind::full ? 0 : kGroup});
  model->set_policies(std::vector<LayerPolicy>(2, c.policy));
  return model;
}

class DeviceModel : public testing::TestWithParam<Case> {
 protected:
  DeviceModel() : batch(kRows, kTokens, 37) {
    batch.input.global_rows = {0, 1};
    if (GetParam().documents) batch.input.document_starts = {{0, 13, 40}, {0}};
  }
  double tolerance() const { return device_model_error(GetParam().compute == ComputeType::bf16 ? DType::bf16 : DType::f32); }
  TinyBatch batch;
};

TEST_P(DeviceModel, LossAndGradientsAgreeWithTheCpu) {
  const auto cpu = model_on(at::kCPU, GetParam()), device = model_on(fake::device(), GetParam());
  const float scale = 1.0f / static_cast<float>(batch.targets);
  const LossSum want = accumulate_gradients(*cpu, batch.input, scale);
  LossSum got = accumulate_gradients(*device, batch.input, scale);
  EXPECT_TRUE(got.pending.defined());
  settle(got);
  EXPECT_EQ(got.targets, want.targets);
  EXPECT_NEAR(got.nll_sum, want.nll_sum, tolerance() * want.nll_sum);
  const auto gradients = gradients_of(*device);
  for (const auto& [name, gradient] : gradients_of(*cpu))
    EXPECT_LT(relative_error(doubles(gradients.at(name).cpu()), doubles(gradient)), tolerance()) << name;
}

TEST_P(DeviceModel, EvaluationAgreesWithTheCpu) {
  const auto cpu = model_on(at::kCPU, GetParam()), device = model_on(fake::device(), GetParam());
  const at::Tensor nll_BT = device->negative_log_likelihood(batch.input);
  EXPECT_TRUE(nll_BT.is_cpu());
  EXPECT_LT(relative_error(doubles(nll_BT), doubles(cpu->negative_log_likelihood(batch.input))), tolerance());
  const std::vector<int64_t> positions = {0, 17, 63};
  EXPECT_LT(relative_error(doubles(device->logits(batch.input, positions)), doubles(cpu->logits(batch.input, positions))), tolerance());
}

TEST_P(DeviceModel, GenerationAgreesWithTheCpu) {
  const auto cpu = model_on(at::kCPU, GetParam()), device = model_on(fake::device(), GetParam());
  Decoder on_cpu(*cpu, 40), on_device(*device, 40);
  const std::span<const int32_t> ids(batch.ids);
  for (const auto& [first, count] : {std::pair<size_t, size_t>{0, 33}, {33, 1}, {34, 1}})
    EXPECT_LT(relative_error(doubles(on_device.append(ids.subspan(first, count))), doubles(on_cpu.append(ids.subspan(first, count)))),
              tolerance());
}

TEST_P(DeviceModel, PoliciesChangeNoBit) {
  std::map<std::string, at::Tensor> first;
  for (const KeepPolicy policy : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all}) {
    const auto model = model_on(fake::device(), GetParam());
    model->set_policies(std::vector<LayerPolicy>(2, policy));
    accumulate_gradients(*model, batch.input);
    const auto gradients = gradients_of(*model);
    if (first.empty()) first = gradients;
    for (const auto& [name, gradient] : gradients) EXPECT_TRUE(same_bits(gradient.cpu(), first.at(name).cpu())) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DeviceModel,
                         testing::Values(Case{"S2Fp32"}, Case{"S2Bf16", ComputeType::bf16},
                                         Case{"FullBf16", ComputeType::bf16, AttentionKind::full},
                                         Case{"WrapFp32", ComputeType::fp32, AttentionKind::s2_wrap},
                                         Case{"DocumentsBf16Tied", ComputeType::bf16, AttentionKind::s2, true, true, true},
                                         Case{"DocumentsFp32Full", ComputeType::fp32, AttentionKind::full, true, true}),
                         [](const auto& info) { return info.param.name; });

/// Half-groups are multiples of the kernels' tiles: not a bit differs, and inputs come back from the host through two or three slots.
TEST(StreamedDeviceModel, PoliciesChangeNoBitAndUseTheBytesOfThePlannersTable) {
  for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
    const TinyBatch batch(1, 300, 37);
    ModelOptions options{.compute = compute, .tuning = lora_tuning(), .row_tile = 128};
    options.device = fake::device();
    const auto model = make_model(tiny_config({.heads = 3, .kv_heads = 1, .head_dim = 64, .hidden = 48, .ffn = 40}), options);
    model->set_attention({AttentionKind::s2, AttentionPattern::cross_heads, 256});
    std::map<std::string, at::Tensor> first;
    size_t allocated = 0;
    const int64_t stale = fake::stale_copies();
    using enum KeepPolicy;
    const std::vector<LayerPolicy> mixes[] = {{checkpoint, checkpoint},
                                              {{checkpoint, true, true}, {checkpoint, true, true}},
                                              {{checkpoint, false, true}, {checkpoint, false, true}},
                                              {{save_attention, false, true}, {save_all, true, false}}};
    for (const std::vector<LayerPolicy>& policies : mixes) {
      model->set_policies(policies);
      zero_gradients(*model);
      LossSum loss = accumulate_gradients(*model, batch.input);
      settle(loss);
      for (const auto& [name, gradient] : gradients_of(*model)) {
        if (!first.contains(name)) first[name] = gradient.cpu().clone();
        EXPECT_TRUE(same_bits(gradient.cpu(), first.at(name))) << name << " " << name_of(policies[0]);
      }
      LayerShape shape = layer_shape(model->config(), options.tuning);
      shape.rows = 1, shape.tokens = 300, shape.row_tile = shape.block = 128, shape.carry_heads = 1, shape.on_device = true;
      shape.element_bytes = compute == ComputeType::bf16 ? 2 : 4;
      shape.merged = compute == ComputeType::fp32;
      EXPECT_EQ(model->activation_peak_bytes(), training_peak(shape, policies, {.chunk_rows = 128, .vocabulary = 37}).total());
      model->release();
      if (allocated == 0) allocated = fake::use().allocated;  // with the tables that the first pass left
      EXPECT_EQ(fake::use().allocated, allocated) << name_of(policies[0]);
      EXPECT_EQ(fake::waiting_copies(), 0);
    }
    EXPECT_EQ(fake::stale_copies(), stale);
  }
}

/// A pass that an exception ended leaves a copy on its way into a slot, which belongs to the arena.
TEST(OffloadedInputsOnADevice, EndOfReturnWaitsForTheNewestCopy) {
  const at::TensorOptions floats = at::TensorOptions().dtype(at::kFloat).device(fake::device());
  Arena arena(fake::device());
  OffloadedInputs inputs(fake::device());
  inputs.begin({true, true}, 4, 8, floats);
  for (const int64_t layer : {0, 1}) inputs.keep(layer, 0, at::zeros({4, 8}, floats));
  inputs.let_overwrite();
  inputs.begin_return({{1, 0, 4}, {0, 0, 4}}, 2, arena);
  inputs.fetch(1, 0);
  EXPECT_EQ(fake::waiting_copies(), 1);
  inputs.end_return();
  EXPECT_EQ(fake::waiting_copies(), 0);
}

}  // namespace
}  // namespace longlora::test
