#pragma once
// Small models with every parameter random (norms near 1, LoRA B not zero), and inputs for them.
#include <memory>
#include <random>

#include "longlora/model/llama.h"
#include "model/reference_model.h"
#include "support/tensors.h"

namespace longlora::test {

struct TinyShape {
  int64_t heads = 4, kv_heads = 2, head_dim = 8, layers = 2, hidden = 24, ffn = 20, vocabulary = 37;
  bool tied = false;
};

inline ModelConfig tiny_config(const TinyShape& s) {
  ModelConfig c;
  c.vocab_size = s.vocabulary;
  c.hidden_size = s.hidden;
  c.intermediate_size = s.ffn;
  c.num_layers = s.layers;
  c.num_heads = s.heads;
  c.num_kv_heads = s.kv_heads;
  c.head_dim = s.head_dim;
  c.tied = s.tied;
  c.rms_norm_eps = 1e-5;
  c.rope = {.type = RopeType::linear, .theta = 100.0, .factor = 2.0};
  return c;
}

inline TrainConfig::Tuning lora_tuning(std::vector<LoraTarget> targets = {LoraTarget::q_proj, LoraTarget::k_proj, LoraTarget::v_proj,
                                                                          LoraTarget::o_proj}) {
  TrainConfig::Tuning t;
  t.lora.rank = 3;
  t.lora.alpha = 5;
  t.lora.targets = std::move(targets);
  return t;
}
inline TrainConfig::Tuning full_tuning() {
  TrainConfig::Tuning t;
  t.mode = TuningMode::full;
  return t;
}
inline std::vector<LoraTarget> all_targets() {
  return {LoraTarget::q_proj,    LoraTarget::k_proj,  LoraTarget::v_proj,   LoraTarget::o_proj,
          LoraTarget::gate_proj, LoraTarget::up_proj, LoraTarget::down_proj};
}

inline std::unique_ptr<LlamaModel> make_model(const ModelConfig& config, const ModelOptions& options, uint32_t seed = 1) {
  auto model = std::make_unique<LlamaModel>(config, config.rope, config.max_position, config.max_position, options);
  model->visit([&](Parameter& p) {
    const double deviation = p.role == Role::norm ? 0.2 : p.role == Role::embedding ? 1.0 : 0.3;
    at::Tensor values = random_tensor(p.shape, seed + static_cast<uint32_t>(std::hash<std::string>{}(p.name)), deviation);
    if (p.role == Role::norm) values.add_(1.0);
    if (p.is_shared) values = values.view({-1}).narrow(0, p.first_element, p.weight.numel());
    if (p.master.defined()) p.master.copy_(values);
    p.weight.copy_(values);
    if (p.grad.defined()) p.grad.zero_();
  });
  return model;
}

inline Values values_of(LlamaModel& model) {
  Values values;
  model.visit([&](Parameter& p) { values[p.name] = doubles(p.weight); });
  return values;
}

inline at::Tensor int_tensor(const std::vector<int32_t>& values, int64_t rows) {
  at::Tensor t = at::empty({rows, static_cast<int64_t>(values.size()) / rows}, at::TensorOptions().dtype(at::kInt));
  std::memcpy(t.data_ptr(), values.data(), values.size() * sizeof(int32_t));
  return t;
}

/// Random ids; labels are the next id, the last of a row and every seventh are ignored.
struct TinyBatch {
  std::vector<int32_t> ids, labels;
  ModelInput input;
  int64_t targets = 0;

  TinyBatch(int64_t rows, int64_t tokens, int64_t vocabulary, uint32_t seed = 5) {
    std::mt19937 generator(seed);
    for (int64_t i = 0; i < rows * tokens; ++i) ids.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary)));
    for (int64_t i = 0; i < rows * tokens; ++i) {
      const bool ignored = (i + 1) % tokens == 0 || i % 7 == 3;
      labels.push_back(ignored ? kIgnoredLabel : ids[static_cast<size_t>(i + 1)]);
      targets += ignored ? 0 : 1;
    }
    refresh(rows);
  }
  void refresh(int64_t rows) {
    input.ids_BT = int_tensor(ids, rows);
    input.labels_BT = int_tensor(labels, rows);
  }
};

/// Forward, loss, backward of the sum of losses.
inline LossSum accumulate_gradients(LlamaModel& model, const ModelInput& input, float scale = 1.0f) {
  at::Tensor hidden = model.forward(input);
  const LossSum loss = model.loss_backward(hidden, input.labels_BT, scale);
  model.backward(hidden, input);
  return loss;
}

inline std::map<std::string, at::Tensor> gradients_of(LlamaModel& model) {
  std::map<std::string, at::Tensor> result;
  model.visit([&](Parameter& p) {
    if (p.trainable) result[p.name] = p.grad.clone();
  });
  return result;
}

inline void zero_gradients(LlamaModel& model) {
  model.visit([](Parameter& p) {
    if (p.trainable) p.grad.zero_();
  });
}

}  // namespace longlora::test
