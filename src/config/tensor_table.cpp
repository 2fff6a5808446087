#include <fmt/format.h>

#include "longlora/config/model_config.h"

namespace longlora {

std::vector<TensorSpec> tensor_table(const ModelConfig& c) {
  std::vector<TensorSpec> table;
  table.reserve(static_cast<size_t>(c.num_layers) * 9 + 3);
  table.push_back({"model.embed_tokens.weight", Role::embedding, {c.vocab_size, c.hidden_size}});
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const auto row = [&](std::string_view name, Role role, std::vector<int64_t> shape) {
      table.push_back({fmt::format("model.layers.{}.{}.weight", layer, name), role, std::move(shape), layer});
    };
    row("self_attn.q_proj", Role::projection, {c.q_width(), c.hidden_size});
    row("self_attn.k_proj", Role::projection, {c.kv_width(), c.hidden_size});
    row("self_attn.v_proj", Role::projection, {c.kv_width(), c.hidden_size});
    row("self_attn.o_proj", Role::projection, {c.hidden_size, c.q_width()});
    row("mlp.gate_proj", Role::projection, {c.intermediate_size, c.hidden_size});
    row("mlp.up_proj", Role::projection, {c.intermediate_size, c.hidden_size});
    row("mlp.down_proj", Role::projection, {c.hidden_size, c.intermediate_size});
    row("input_layernorm", Role::norm, {c.hidden_size});
    row("post_attention_layernorm", Role::norm, {c.hidden_size});
  }
  table.push_back({"model.norm.weight", Role::norm, {c.hidden_size}});
  if (!c.tied) table.push_back({"lm_head.weight", Role::head, {c.vocab_size, c.hidden_size}});
  return table;
}

}  // namespace longlora
