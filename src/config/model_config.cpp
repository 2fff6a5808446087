#include "longlora/config/model_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/config_json_reader.h"
#include "config/rope_read.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"

namespace longlora {

namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;
constexpr int64_t kMaxPosition = int64_t{1} << 24;
constexpr int64_t kMaxVocab = int64_t{1} << 20;

constexpr std::string_view kKnownKeys[] = {"architectures",
                                           "model_type",
                                           "vocab_size",
                                           "hidden_size",
                                           "intermediate_size",
                                           "num_hidden_layers",
                                           "num_attention_heads",
                                           "num_key_value_heads",
                                           "head_dim",
                                           "max_position_embeddings",
                                           "rms_norm_eps",
                                           "rope_theta",
                                           "rope_scaling",
                                           "rope_parameters",
                                           "partial_rotary_factor",
                                           "original_max_position_embeddings",
                                           "hidden_act",
                                           "tie_word_embeddings",
                                           "attention_bias",
                                           "mlp_bias",
                                           "sliding_window",
                                           "quantization_config",
                                           "pretraining_tp",
                                           "attention_dropout",
                                           "use_cache",
                                           "initializer_range",
                                           "torch_dtype",
                                           "dtype",
                                           "bos_token_id",
                                           "eos_token_id",
                                           "pad_token_id",
                                           "longlora_train",
                                           "transformers_version",
                                           "_name_or_path",
                                           "max_sequence_length",
                                           "auto_map",
                                           "layer_types",
                                           "unk_token_id",
                                           "transformers.js_config",
                                           "is_llama_config"};

void read_family(const JsonValue& root, ModelConfig& c, ConfigJsonReader& reader) {
  if (const std::string* type = reader.string(root, "model_type")) {
    c.model_type = *type;
    if (*type != "llama" && *type != "mistral")
      reader.problem("model_type", "\"llama\" or \"mistral\"", fmt::format("\"{}\"", escape(*type, 60)));
  } else if (!find_value(root, "model_type")) {
    reader.problem("model_type", "\"llama\" or \"mistral\"", "no such key");
  }
  const JsonValue* architectures = find_value(root, "architectures");
  if (!architectures) return;
  const JsonValue::Array* list = architectures->array();
  const bool good = list && list->size() == 1 && list->front().string() &&
                    (*list->front().string() == "LlamaForCausalLM" || *list->front().string() == "MistralForCausalLM");
  if (!good) {
    reader.problem("architectures", "[\"LlamaForCausalLM\"] or [\"MistralForCausalLM\"]",
                   list && list->size() == 1 ? shown(list->front()) : shown(*architectures));
  }
}

void read_sizes(const JsonValue& root, ModelConfig& c, ConfigJsonReader& reader) {
  c.vocab_size = reader.integer(root, "vocab_size", 1, kMaxVocab);
  if (reader.count() > 0) c.vocab_size = kMaxVocab;  // token ids shall not be blamed for it too
  c.hidden_size = reader.integer(root, "hidden_size", 8, 65'536);
  c.intermediate_size = reader.integer(root, "intermediate_size", 8, 262'144);
  c.num_layers = reader.integer(root, "num_hidden_layers", 1, 512);
  c.num_heads = reader.integer(root, "num_attention_heads", 1, 512);
  c.num_kv_heads = reader.integer(root, "num_key_value_heads", 1, 512, c.num_heads);
  if (c.num_heads % c.num_kv_heads != 0) {
    reader.problem("num_key_value_heads", fmt::format("a divisor of num_attention_heads ({})", c.num_heads),
                   fmt::format("{}", c.num_kv_heads));
  }
  if (find_value(root, "head_dim")) {
    c.head_dim = reader.integer(root, "head_dim", 2, 256);
  } else if (c.hidden_size % c.num_heads == 0) {
    c.head_dim = c.hidden_size / c.num_heads;
    if (c.head_dim > 256) reader.problem("head_dim", "hidden_size / num_attention_heads of at most 256", fmt::format("{}", c.head_dim));
  } else {
    reader.problem("num_attention_heads", fmt::format("a divisor of hidden_size ({}), or head_dim", c.hidden_size),
                   fmt::format("{}", c.num_heads));
    c.head_dim = 2;
  }
  if (c.head_dim % 2 != 0) reader.problem("head_dim", "an even number", fmt::format("{}", c.head_dim));
  c.max_position = reader.integer(root, "max_position_embeddings", 1, kMaxPosition, 2048);
  c.rms_norm_eps = reader.real(root, "rms_norm_eps", {0, 0.1, true}, 1e-6);
  c.initializer_range = reader.real(root, "initializer_range", {0, 10}, 0.02);
  c.tied = reader.boolean(root, "tie_word_embeddings", false);
}

void read_unsupported(const JsonValue& root, ModelConfig& c, ConfigJsonReader& reader) {
  if (const JsonValue* act = find_value(root, "hidden_act"); act && !(act->string() && *act->string() == "silu")) {
    reader.problem("hidden_act", "\"silu\"", shown(*act));
  }
  for (const std::string_view key : {"attention_bias", "mlp_bias"}) {
    if (reader.boolean(root, key, false)) reader.problem(key, "false", "true (not supported yet)");
  }
  if (const JsonValue* window = find_value(root, "sliding_window")) {
    reader.problem("sliding_window", "null (set it to null if the model was trained without a window)", shown(*window));
  }
  if (const JsonValue* quantization = find_value(root, "quantization_config")) {
    reader.problem("quantization_config", "no such key (load unquantised weights or GGUF)", shown(*quantization));
  }
  if (const JsonValue* dropout = find_value(root, "attention_dropout")) {
    if (const auto p = dropout->number(); p && *p != 0) c.notices.push_back(fmt::format("attention_dropout {} has no effect here", *p));
  }
}

/// A token id below vocab_size; nothing when absent or null.
std::optional<int64_t> read_token(const JsonValue& value, std::string_view key, int64_t vocab_size, ConfigJsonReader& reader) {
  const auto id = value.unsigned_integer();
  if (id && *id < static_cast<uint64_t>(vocab_size)) return static_cast<int64_t>(*id);
  reader.problem(key, fmt::format("a token id below vocab_size ({}) or null", vocab_size), shown(value));
  return std::nullopt;
}

void read_tokens(const JsonValue& root, ModelConfig& c, ConfigJsonReader& reader) {
  if (const JsonValue* bos = find_value(root, "bos_token_id")) c.bos_token = read_token(*bos, "bos_token_id", c.vocab_size, reader);
  if (const JsonValue* eos = find_value(root, "eos_token_id")) {
    const auto add = [&](const JsonValue& value) {
      if (const auto id = read_token(value, "eos_token_id", c.vocab_size, reader)) c.eos_tokens.push_back(*id);
    };
    if (eos->array()) {
      std::for_each(eos->array()->begin(), eos->array()->end(), add);
    } else {
      add(*eos);
    }
  }
  if (const JsonValue* pad = find_value(root, "pad_token_id")) {
    const bool is_integer = std::holds_alternative<int64_t>(pad->value) || pad->unsigned_integer();
    const auto id = pad->unsigned_integer();
    if (id && *id < static_cast<uint64_t>(c.vocab_size)) {
      c.pad_token = static_cast<int64_t>(*id);
    } else if (is_integer) {
      c.notices.push_back(fmt::format("pad_token_id {} is outside the vocabulary of {} and is treated as null", shown(*pad), c.vocab_size));
    } else {
      reader.problem("pad_token_id", "an integer or null", shown(*pad));
    }
  }
}

void read_own_mark(const JsonValue& root, ModelConfig& c, ConfigJsonReader& reader) {
  const JsonValue* mark = find_value(root, "longlora_train");
  if (!mark) return;
  if (!mark->object()) {
    reader.problem("longlora_train", "an object", shown(*mark));
  } else if (const JsonValue* context = find_value(*mark, "context")) {
    const auto tokens = context->unsigned_integer();
    if (tokens && *tokens >= 1 && *tokens <= static_cast<uint64_t>(kMaxPosition)) {
      c.declared_context = static_cast<int64_t>(*tokens);
    } else {
      reader.problem("longlora_train.context", fmt::format("an integer in [1, {}]", kMaxPosition), shown(*context));
    }
  }
}

}  // namespace

ModelConfig parse_model_config(std::string_view json, std::string_view source) {
  const JsonValue root = parse_json(json, source, {.max_bytes = kMaxConfigBytes, .max_depth = 16, .max_values = 100'000});
  LONGLORA_CHECK(root.object(), data, fmt::format("expected an object, found {}", shown(root)), fmt::format("{}:1:1", source),
                 "use the config.json of a Llama-family model");
  ModelConfig c;
  ConfigJsonReader reader(source);
  read_family(root, c, reader);
  read_sizes(root, c, reader);
  read_unsupported(root, c, reader);
  c.rope = read_rope(root, c.max_position, reader);
  read_tokens(root, c, reader);
  read_own_mark(root, c, reader);
  for (const auto& [key, value] : *root.object()) {
    if (std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) == std::end(kKnownKeys))
      log_debug("{}: key {} is ignored", source, escape(key, 60));
  }
  reader.raise();
  c.json = json;
  return c;
}

ModelConfig read_model_config(const std::filesystem::path& folder) {
  const InputFile file = InputFile::open_in(folder, "config.json");
  const std::string source = file.path().string();
  LONGLORA_CHECK(file.size() <= kMaxConfigBytes, data, fmt::format("expected at most {} bytes, found {}", kMaxConfigBytes, file.size()),
                 source, "use the config.json of a Llama-family model");
  const std::string text = file.read_text(0, file.size());
  file.check_unchanged();
  return parse_model_config(text, source);
}

}  // namespace longlora
