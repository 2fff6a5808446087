#include <fmt/format.h>

#include "config/json_edit.h"
#include "config/rope_read.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {

namespace {

/// Shortest decimal with a decimal point or exponent, the way Python spells floats: transformers 5 checks types.
std::string real_text(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

/// The value of "rope_scaling"; `null` for default frequencies.
std::string rope_scaling_text(const RopeScaling& rope) {
  if (rope.type == RopeType::none) return "null";
  std::vector<std::pair<std::string_view, std::string>> members = {
      {"type", json_quote(name_of(rope.type))}, {"rope_type", json_quote(name_of(rope.type))}, {"factor", real_text(rope.factor)}};
  if (rope.type == RopeType::llama3) {
    members.emplace_back("low_freq_factor", real_text(rope.low_freq_factor));
    members.emplace_back("high_freq_factor", real_text(rope.high_freq_factor));
  }
  if (rope.type == RopeType::yarn) {
    members.emplace_back("beta_fast", real_text(rope.beta_fast));
    members.emplace_back("beta_slow", real_text(rope.beta_slow));
    if (rope.attention_factor) members.emplace_back("attention_factor", real_text(*rope.attention_factor));
    if (rope.mscale) members.emplace_back("mscale", real_text(*rope.mscale));
    if (rope.mscale_all_dim) members.emplace_back("mscale_all_dim", real_text(*rope.mscale_all_dim));
    if (!rope.truncate) members.emplace_back("truncate", "false");
  }
  if (rope.original_max_position > 0)
    members.emplace_back("original_max_position_embeddings", fmt::format("{}", rope.original_max_position));
  std::string out = "{";
  for (size_t i = 0; i < members.size(); ++i)
    out += fmt::format("{}\n    \"{}\": {}", i == 0 ? "" : ",", members[i].first, members[i].second);
  return out + "\n  }";
}

/// Top-level rope_theta and rope_scaling: the shape that readers of every age understand.
void set_rope(JsonTextEdit& edit, const RopeScaling& rope) {
  edit.set("rope_theta", real_text(rope.theta));
  edit.set("rope_scaling", rope_scaling_text(rope));
  edit.remove("rope_parameters");
  // a top-level key would win over the nested one that was just written
  if (edit.has("original_max_position_embeddings")) {
    if (rope.original_max_position > 0)
      edit.set("original_max_position_embeddings", fmt::format("{}", rope.original_max_position));
    else
      edit.remove("original_max_position_embeddings");
  }
}

/// "torch_dtype", or the newer spelling when the base uses only that.
void set_dtype(JsonTextEdit& edit, std::string_view torch_dtype) {
  if (edit.has("dtype")) edit.set("dtype", json_quote(torch_dtype));
  if (edit.has("torch_dtype") || !edit.has("dtype")) edit.set("torch_dtype", json_quote(torch_dtype));
}

std::string bool_text(bool value) { return value ? "true" : "false"; }

std::string eos_text(const std::vector<int64_t>& ids) {
  if (ids.empty()) return "null";
  return ids.size() == 1 ? fmt::format("{}", ids.front()) : fmt::format("[{}]", fmt::join(ids, ", "));
}

}  // namespace

std::string write_model_config(const ModelConfig& base, const RopeExtension& rope, std::string_view torch_dtype, bool tied,
                               std::string_view version) {
  JsonTextEdit edit(base.json.empty() ? make_model_config(base, torch_dtype) : base.json);
  if (rope.after != rope.before) set_rope(edit, rope.after);
  if (rope.new_max_position != base.max_position) edit.set("max_position_embeddings", fmt::format("{}", rope.new_max_position));
  set_dtype(edit, torch_dtype);
  edit.set("tie_word_embeddings", bool_text(tied));
  edit.set("use_cache", "true");
  edit.set("longlora_train", fmt::format("{{\n    \"context\": {},\n    \"base_context\": {},\n    \"version\": {}\n  }}", rope.new_context,
                                         rope.old_context, json_quote(version)));
  return edit.text();
}

std::string make_model_config(const ModelConfig& c, std::string_view torch_dtype) {
  JsonTextEdit edit("{}");
  const auto integer = [&](std::string_view key, int64_t value) { edit.set(key, fmt::format("{}", value)); };
  const bool is_mistral = c.model_type == "mistral";
  edit.set("architectures", fmt::format("[\n    \"{}\"\n  ]", is_mistral ? "MistralForCausalLM" : "LlamaForCausalLM"));
  if (!is_mistral) edit.set("attention_bias", "false");
  edit.set("bos_token_id", c.bos_token ? fmt::format("{}", *c.bos_token) : "null");
  edit.set("eos_token_id", eos_text(c.eos_tokens));
  integer("head_dim", c.head_dim);
  edit.set("hidden_act", "\"silu\"");
  integer("hidden_size", c.hidden_size);
  edit.set("initializer_range", real_text(c.initializer_range));
  integer("intermediate_size", c.intermediate_size);
  integer("max_position_embeddings", c.max_position);
  if (!is_mistral) edit.set("mlp_bias", "false");
  edit.set("model_type", json_quote(c.model_type));
  integer("num_attention_heads", c.num_heads);
  integer("num_hidden_layers", c.num_layers);
  integer("num_key_value_heads", c.num_kv_heads);
  edit.set("pad_token_id", c.pad_token ? fmt::format("{}", *c.pad_token) : "null");
  edit.set("rms_norm_eps", real_text(c.rms_norm_eps));
  set_rope(edit, c.rope);
  if (is_mistral) edit.set("sliding_window", "null");
  edit.set("tie_word_embeddings", bool_text(c.tied));
  edit.set("torch_dtype", json_quote(torch_dtype));
  edit.set("use_cache", "true");
  integer("vocab_size", c.vocab_size);
  return edit.text();
}

}  // namespace longlora
