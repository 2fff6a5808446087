#pragma once
// config.json of a Llama-family folder: reading in all its RoPE shapes, checking, extending the context, writing back.
// Rules and limits: docs/formats.md. Errors are ErrorKind::data "FILE: key: expected, found"; extension conflicts are ErrorKind::config.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/config/train_config.h"

namespace longlora {

enum class RopeType { none, linear, dynamic, yarn, llama3 };  // `none` is transformers' "default"

/// "default", "linear", "dynamic", "yarn", "llama3": the spelling of config.json.
std::string_view name_of(RopeType);

/// What defines the rotary frequencies (spec: formats 4.1). Only the members of the type are meaningful.
struct RopeScaling {
  RopeType type = RopeType::none;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_position = 0;                 // yarn, llama3 (M0)
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> attention_factor, mscale, mscale_all_dim;
  bool truncate = true;
  bool operator==(const RopeScaling&) const = default;
};

/// fp32 frequencies [head_dim/2], computed in fp64 and rounded once; `max_position` (M) and `sequence_length` matter for dynamic only.
std::vector<float> rope_frequencies(const RopeScaling&, int64_t head_dim, int64_t max_position, int64_t sequence_length);
/// Factor on cos and sin (yarn; 1 otherwise).
double rope_attention_factor(const RopeScaling&);

struct ModelConfig {
  std::string model_type = "llama";  // llama, mistral
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_position = 2048;  // max_position_embeddings
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tied = false;  // tie_word_embeddings
  RopeScaling rope;
  std::optional<int64_t> bos_token, pad_token;
  std::vector<int64_t> eos_tokens;
  std::optional<int64_t> declared_context;  // longlora_train.context of our own exports
  std::string json;                         // the file's text, base of what is written
  std::vector<std::string> notices;         // to print once

  int64_t q_width() const { return num_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
};

ModelConfig parse_model_config(std::string_view json, std::string_view source);
ModelConfig read_model_config(const std::filesystem::path& folder);

/// The context extension of spec formats 4.2.
struct RopeExtension {
  int64_t old_context = 0;  // C0
  int64_t new_context = 0;  // max(C0, sequence_length)
  RopeScaling before, after;
  int64_t new_max_position = 0;
  bool changed = false;
  std::vector<std::string> notices;
  std::string summary() const;  // "context 4096 -> 32768, linear, factor 1 -> 8, theta 10000 -> 10000"
};
RopeExtension extend_rope(const ModelConfig&, const TrainConfig::Rope&, int64_t sequence_length);

/// The base's config.json with only the keys of spec formats 4.3 changed, order kept.
std::string write_model_config(const ModelConfig& base, const RopeExtension&, std::string_view torch_dtype, bool tied,
                               std::string_view version);
/// A config.json from scratch (GGUF import, tests).
std::string make_model_config(const ModelConfig&, std::string_view torch_dtype);

/// One row of the tensor table (order of LlamaModel::visit; spec formats 4). Roles are fixed by the architecture.
enum class Role { projection, norm, embedding, head, lora };
struct TensorSpec {
  std::string name;
  Role role;
  std::vector<int64_t> shape;
  int64_t layer = -1;
};
std::vector<TensorSpec> tensor_table(const ModelConfig&);  // without lm_head when tied

}  // namespace longlora
