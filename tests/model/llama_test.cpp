// The model as a whole: parameters and their order, random starts, evaluation, generation.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "longlora/ops/memory_counter.h"
#include "model/tiny_model.h"
#include "support/error_of.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

/// Tiny products gain nothing from a second thread and wait for it on a busy machine.
class OneThread : public testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

TEST(Parameters, StandInTableOrderWithAdaptersAfterTheirProjection) {
  for (const bool tied : {false, true}) {
    const ModelConfig config = tiny_config({.tied = tied});
    auto model = make_model(config, {.tuning = lora_tuning({LoraTarget::k_proj, LoraTarget::down_proj})});
    std::vector<std::string> base, adapters;
    std::string previous;
    model->visit([&](Parameter& p) {
      if (p.role == Role::lora)
        adapters.push_back(p.name);
      else
        base.push_back(p.name);
      if (p.name.ends_with("lora_A.weight")) EXPECT_EQ(previous, p.name.substr(0, p.name.size() - 13) + "weight");
      previous = p.name;
      EXPECT_TRUE(p.weight.is_contiguous()) << p.name;
      EXPECT_EQ(p.trainable, p.role != Role::projection && p.role != Role::head) << p.name;
      EXPECT_EQ(p.grad.defined(), p.trainable) << p.name;
    });
    std::vector<std::string> expected;
    for (const TensorSpec& spec : tensor_table(config)) expected.push_back(spec.name);
    EXPECT_EQ(base, expected);
    EXPECT_EQ(adapters.size(), 8u);
    EXPECT_EQ(adapters[1], "model.layers.0.self_attn.k_proj.lora_B.weight");
  }
}

TEST(Initialise, IsAFunctionOfSeedAndTensorAlone) {
  const ModelConfig config = tiny_config({.vocabulary = 3001});
  std::map<std::string, at::Tensor> first;
  const int threads = at::get_num_threads();
  for (const int n : {1, 3}) {
    at::set_num_threads(n);
    auto model = make_model(config, {.tuning = n == 1 ? lora_tuning() : lora_tuning(all_targets())}, static_cast<uint32_t>(n));
    model->initialise_base();
    model->visit([&](Parameter& p) {
      if (p.role == Role::lora) return;
      if (n == 1) first[p.name] = p.weight.clone();
      EXPECT_TRUE(same_bits(first[p.name], p.weight)) << p.name;
      if (p.role == Role::norm) EXPECT_EQ(p.weight.min().item<float>(), 1.0f);
      if (p.role == Role::embedding) EXPECT_NEAR(p.weight.std().item<double>(), config.initializer_range, 1e-3);
    });
  }
  at::set_num_threads(threads);
}

TEST(Initialise, LoraStartsAsTheIdentity) {
  auto model = make_model(tiny_config({}), {.tuning = lora_tuning()});
  model->initialise_lora();
  model->visit([](Parameter& p) {
    const double largest = p.role == Role::lora ? p.weight.abs().max().item<double>() : 0;
    if (p.name.ends_with("lora_B.weight")) EXPECT_EQ(largest, 0.0);
    const double bound = 1.0 / std::sqrt(static_cast<double>(p.weight.size(-1)));
    if (p.name.ends_with("lora_A.weight")) EXPECT_TRUE(largest <= bound && largest > 0.8 * bound) << p.name << " " << largest;
  });
}

TEST(Evaluation, AWindowWithoutTargetsHasNoLoss) {
  auto model = make_model(tiny_config({}), {});
  TinyBatch batch(1, 9, 37);
  std::ranges::fill(batch.labels, kIgnoredLabel);
  batch.refresh(1);
  const std::vector<double> nll = doubles(model->negative_log_likelihood(batch.input));
  EXPECT_EQ(nll, std::vector<double>(9, 0.0));
}

TEST(Evaluation, NegativeLogLikelihoodSumsToTheLoss) {
  const ModelConfig config = tiny_config({});
  const TinyBatch batch(2, 37, config.vocab_size);
  auto model = make_model(config, {.tuning = lora_tuning(), .row_tile = 16});
  model->set_attention({AttentionKind::s2, AttentionPattern::cross_heads, 12});
  const LossSum loss = accumulate_gradients(*model, batch.input);
  const std::vector<double> nll = doubles(model->negative_log_likelihood(batch.input));
  double sum = 0;
  for (size_t i = 0; i < nll.size(); ++i) {
    sum += nll[i];
    if (batch.labels[i] == kIgnoredLabel) EXPECT_EQ(nll[i], 0.0);
  }
  EXPECT_EQ(sum, loss.nll_sum);
}

TEST(Evaluation, LogitsAtPositionsAreRowsOfAllLogits) {
  const ModelConfig config = tiny_config({});
  const TinyBatch batch(2, 9, config.vocab_size);
  auto model = make_model(config, {.tuning = {.mode = TuningMode::none}});
  const at::Tensor all = model->logits(batch.input);
  const std::vector<int64_t> positions = {8, 0};
  const at::Tensor some = model->logits(batch.input, positions);
  EXPECT_EQ(some.sizes(), (std::vector<int64_t>{2, 2, config.vocab_size}));
  for (const int64_t row : {0, 1})
    for (const size_t i : {0, 1})
      EXPECT_LT(relative_error(doubles(some[row][static_cast<int64_t>(i)]), doubles(all[row][positions[i]])), near(DType::f32, 24));
}

TEST(Decoder, AppendsTokensAsIfTheyHadComeAtOnce) {
  const ModelConfig config = tiny_config({.heads = 6, .kv_heads = 2});
  const TinyBatch batch(1, 40, config.vocab_size);
  auto model = make_model(config, {.tuning = lora_tuning(), .row_tile = 16});
  const at::Tensor all = model->logits(batch.input)[0];
  Decoder decoder(*model, 40);
  size_t done = 0;
  for (const size_t count : {size_t{19}, size_t{1}, size_t{1}, size_t{2}, size_t{17}}) {
    const at::Tensor last = decoder.append(std::span(batch.ids).subspan(done, count));
    done += count;
    EXPECT_EQ(decoder.length(), static_cast<int64_t>(done));
    EXPECT_LT(relative_error(doubles(last), doubles(all[static_cast<int64_t>(done) - 1])), model_gradient_error()) << done;
  }
  EXPECT_EQ(error_of([&] { decoder.append(std::span(batch.ids).first(1)); }), "41 tokens, room for 40 (generation); ask for fewer tokens");
}

TEST(Training, StepsAfterTheFirstAllocateNothing) {
  using enum KeepPolicy;
  for (const LayerPolicy policy :
       {LayerPolicy(checkpoint), LayerPolicy(save_attention), LayerPolicy(save_all), LayerPolicy(checkpoint, true),
        LayerPolicy(checkpoint, false, true), LayerPolicy(save_attention, true, true)}) {
    const ModelConfig config = tiny_config({});
    const TinyBatch batch(1, 200, config.vocab_size);  // a tensor of one width takes 19,200 bytes
    auto model = make_model(config, {.tuning = lora_tuning(all_targets()), .row_tile = 64});
    model->set_attention({AttentionKind::s2, AttentionPattern::cross_heads, 128});
    model->set_policies({policy, policy});
    install_memory_counter();
    const int64_t before = memory_count().live_bytes;
    accumulate_gradients(*model, batch.input);
    accumulate_gradients(*model, batch.input);  // one arena takes the place of what the first step took piece by piece
    EXPECT_GT(memory_count().live_bytes - before, 5 * 19200);
    mark_memory();
    const int64_t live = memory_count().live_bytes;
    accumulate_gradients(*model, batch.input);
    EXPECT_LT(memory_count().peak_bytes - live, 4096) << name_of(policy);  // lists of rows and losses
    EXPECT_EQ(memory_count().live_bytes, live);
  }
}

TEST(Training, UsesNoGeneratorState) {
  TrainConfig::Tuning tuning = lora_tuning();
  tuning.lora.drop_probability = 0.5;
  const ModelConfig config = tiny_config({});
  auto model = make_model(config, {.tuning = tuning});
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  model->initialise_base();
  model->initialise_lora();
  accumulate_gradients(*model, TinyBatch(1, 20, config.vocab_size).input);
  EXPECT_TRUE(same_bits(at::detail::getDefaultCPUGenerator().get_state(), before));
}

}  // namespace
}  // namespace longlora::test
