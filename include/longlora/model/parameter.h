#pragma once
// A parameter of the model: data with a name and a role. `LlamaModel::visit` is the only enumeration.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "longlora/config/model_config.h"
#include "longlora/core/dtype.h"

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
  Shape shape;                // of the whole tensor
  /// Of a frozen projection that ranks share (ModelOptions::weight_ranks): `weight` is flat and holds this rank's elements from
  /// `first_element` of the flattened tensor on, none where this rank's part of the layer ends before or begins after the tensor. Where the
  /// transport takes host memory only, it lies on the host.
  bool is_shared = false;
  int64_t first_element = 0;
  int64_t owned_begin = 0;  // sharded state: master and moments are 1-D and hold elements [owned_begin, owned_begin + master.numel())

  bool sharded() const { return master.defined() && master.numel() != weight.numel(); }
  /// The elements of `whole` (weight or grad) that master and moments go with; `whole` itself unless sharded.
  at::Tensor owned(const at::Tensor& whole) const { return sharded() ? whole.view({-1}).narrow(0, owned_begin, master.numel()) : whole; }
};

}  // namespace longlora
