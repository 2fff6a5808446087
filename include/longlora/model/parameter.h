#pragma once
// A parameter of the model: data with a name and a role. `LlamaModel::visit` is the only enumeration.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "longlora/config/model_config.h"

namespace longlora {

struct Parameter {
  std::string name;  // Hugging Face name; LoRA: "model.layers.0.self_attn.q_proj.lora_A.weight" (PEFT name without prefix)
  Role role = Role::projection;
  int64_t layer = -1;
  bool trainable = false;
  at::Tensor weight;          // compute dtype; what forward reads. With fp32 compute the same storage as `master`
  at::Tensor master;          // fp32; trainable only
  at::Tensor grad;            // fp32, accumulated by backward; trainable only
  at::Tensor adam_m, adam_v;  // fp32; trainable only; allocated by the optimizer
};

}  // namespace longlora
