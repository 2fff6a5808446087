#include <string_view>

#include "longlora/plan/memory_plan.h"

namespace longlora {
namespace {

struct Projection {
  LoraTarget target;
  int64_t in, out;
};

int64_t lora_parameters(const ModelConfig& m, const TrainConfig::Tuning::Lora& lora) {
  const Projection projections[] = {{LoraTarget::q_proj, m.hidden_size, m.q_width()},
                                    {LoraTarget::k_proj, m.hidden_size, m.kv_width()},
                                    {LoraTarget::v_proj, m.hidden_size, m.kv_width()},
                                    {LoraTarget::o_proj, m.q_width(), m.hidden_size},
                                    {LoraTarget::gate_proj, m.hidden_size, m.intermediate_size},
                                    {LoraTarget::up_proj, m.hidden_size, m.intermediate_size},
                                    {LoraTarget::down_proj, m.intermediate_size, m.hidden_size}};
  int64_t count = 0;
  for (const Projection& p : projections) {
    for (LoraTarget target : lora.targets) count += target == p.target ? lora.rank * (p.in + p.out) : 0;
  }
  return m.num_layers * count;
}

}  // namespace

ParameterCounts count_parameters(const ModelConfig& model, const TrainConfig::Tuning& tuning) {
  ParameterCounts counts;
  ModelConfig one_layer = model;  // all are alike
  one_layer.num_layers = 1;
  for (const TensorSpec& tensor : tensor_table(one_layer)) {
    int64_t elements = tensor.layer < 0 ? 1 : model.num_layers;
    for (int64_t dimension : tensor.shape) elements *= dimension;
    switch (tensor.role) {
      case Role::projection:
        counts.projections += elements;
        break;
      case Role::norm:
        counts.norms += elements;
        break;
      case Role::embedding:
        counts.embeddings += elements;
        break;
      case Role::head:
        counts.head += elements;
        break;
      case Role::lora:
        break;  // not part of a base model
    }
  }
  const bool lora = tuning.mode == TuningMode::lora;
  if (lora) counts.lora = lora_parameters(model, tuning.lora);
  counts.total = counts.projections + counts.norms + counts.embeddings + counts.head + counts.lora;
  if (tuning.mode == TuningMode::full) counts.trainable = counts.total;
  if (lora) {
    counts.trainable = counts.lora + (tuning.train_norms ? counts.norms : 0) + (tuning.train_embeddings ? counts.embeddings : 0) +
                       (tuning.train_head.value_or(false) ? counts.head : 0);
  }
  return counts;
}

}  // namespace longlora
