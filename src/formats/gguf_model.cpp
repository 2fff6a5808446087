#include "formats/gguf_model.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "longlora/core/error.h"

namespace longlora {

namespace {

[[noreturn]] void refuse_key(std::string_view source, std::string_view key, std::string what) {
  fail(ErrorKind::data, std::move(what), fmt::format("{}: key {}", source, key), "convert the model again with a current converter");
}

/// Typed access to the metadata.
class Values {
 public:
  Values(const GgufHeader& header, std::string_view source) : header_(header), source_(source) {}

  const GgufValue* find(std::string_view key) const {
    const auto at = header_.values.find(key);
    return at == header_.values.end() ? nullptr : &at->second;
  }
  std::optional<int64_t> integer(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* u = std::get_if<uint64_t>(value); u && *u <= uint64_t{INT64_MAX}) return static_cast<int64_t>(*u);
    if (const auto* i = std::get_if<int64_t>(value); i && *i >= 0) return *i;
    refuse_key(source_, key, "expected a non-negative integer, found another value");
  }
  int64_t required_integer(std::string_view key) const {
    const auto value = integer(key);
    if (!value) refuse_key(source_, key, "expected an integer, found no such key");
    return *value;
  }
  std::optional<double> real(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* d = std::get_if<double>(value); d && std::isfinite(*d)) return *d;
    refuse_key(source_, key, "expected a finite number, found another value");
  }
  std::optional<bool> boolean(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const bool* b = std::get_if<bool>(value)) return *b;
    refuse_key(source_, key, "expected a truth value, found another value");
  }
  std::string string(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (const auto* s = std::get_if<std::string>(value)) return *s;
    refuse_key(source_, key, "expected a string, found another value");
  }
  std::vector<std::string> strings(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (const auto* s = std::get_if<std::vector<std::string>>(value)) return *s;
    refuse_key(source_, key, "expected an array of strings, found another value");
  }
  template <class T>
  std::vector<T> numbers(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    const auto* n = std::get_if<GgufNumbers>(value);
    if (!n) refuse_key(source_, key, "expected an array of numbers, found another value");
    std::vector<T> out;
    out.reserve(n->count());
    for (size_t i = 0; i < n->count(); ++i) {
      const double v = n->at(i);
      if (std::is_integral_v<T> && !(v == std::floor(v) && std::abs(v) <= 2147483647.0))
        refuse_key(source_, key, "expected 32-bit integers, found another number");
      out.push_back(static_cast<T>(v));
    }
    return out;
  }
  const GgufHeader& header() const { return header_; }

 private:
  const GgufHeader& header_;
  std::string_view source_;
};

/// 9.9999997e-06 -> 1e-05: the file holds fp32, config.json the decimal that was meant.
double shortest_decimal(double stored) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(stored));
  double value = stored;
  std::from_chars(text.data(), end, value);
  return value;
}

RopeScaling rope_of(const Values& values, int64_t max_position, std::string_view source) {
  constexpr std::string_view kScaling = "llama.rope.scaling.";
  RopeScaling rope{.theta = shortest_decimal(values.real("llama.rope.freq_base").value_or(10'000))};
  for (const auto& [key, value] : values.header().values) {
    if (!key.starts_with(kScaling)) continue;
    const std::string_view rest = std::string_view(key).substr(kScaling.size());
    if (rest != "type" && rest != "factor" && rest != "original_context_length" && rest != "finetuned") {
      refuse_key(source, key, "expected only type, factor, original_context_length and finetuned of rope.scaling, found another key");
    }
  }
  const std::string type = values.string("llama.rope.scaling.type");
  const double factor = shortest_decimal(values.real("llama.rope.scaling.factor").value_or(1));
  if (type.empty() || type == "none") return rope;
  if (type != "linear" && type != "yarn")
    refuse_key(source, "llama.rope.scaling.type", fmt::format("expected none, linear or yarn, found {}", escape(type)));
  rope.type = type == "linear" ? RopeType::linear : RopeType::yarn;
  rope.factor = factor;
  if (rope.type == RopeType::yarn)
    rope.original_max_position = values.integer("llama.rope.scaling.original_context_length").value_or(max_position);
  return rope;
}

const GgufTensor* find_tensor(const GgufHeader& header, std::string_view name) {
  for (const GgufTensor& t : header.tensors) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

std::optional<int64_t> token_id(const Values& values, std::string_view key, int64_t vocab_size) {
  const auto id = values.integer(key);
  return id && *id < vocab_size ? id : std::nullopt;  // converters write ids of tokens that do not exist
}

}  // namespace

ModelConfig gguf_model_config(const GgufHeader& header, std::string_view source) {
  const Values values(header, source);
  const std::string architecture = values.string("general.architecture");
  if (architecture != "llama") refuse_key(source, "general.architecture", fmt::format("expected llama, found '{}'", escape(architecture)));
  const GgufTensor* embedding = find_tensor(header, "token_embd.weight");
  LONGLORA_CHECK(embedding && embedding->shape.size() == 2, data, "expected a matrix token_embd.weight, found none",
                 fmt::format("{}: tensor token_embd.weight", source), "convert the model again with a current converter");
  ModelConfig c;
  c.vocab_size = embedding->shape[0];
  c.hidden_size = values.required_integer("llama.embedding_length");
  c.intermediate_size = values.required_integer("llama.feed_forward_length");
  c.num_layers = values.required_integer("llama.block_count");
  c.num_heads = values.required_integer("llama.attention.head_count");
  c.num_kv_heads = values.integer("llama.attention.head_count_kv").value_or(c.num_heads);
  const auto key_length = values.integer("llama.attention.key_length");
  if (!key_length && (c.num_heads < 1 || c.hidden_size % c.num_heads != 0)) {
    refuse_key(source, "llama.attention.head_count",
               fmt::format("expected a divisor of embedding_length {}, found {}", c.hidden_size, c.num_heads));
  }
  c.head_dim = key_length ? *key_length : c.hidden_size / c.num_heads;
  for (const std::string_view key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    const auto length = values.integer(key);
    if (length && *length != c.head_dim) refuse_key(source, key, fmt::format("expected the head size {}, found {}", c.head_dim, *length));
  }
  if (const auto experts = values.integer("llama.expert_count"); experts && *experts > 0)
    refuse_key(source, "llama.expert_count", "mixture of experts is not in this version");
  c.max_position = values.required_integer("llama.context_length");
  const auto eps = values.real("llama.attention.layer_norm_rms_epsilon");
  if (!eps) refuse_key(source, "llama.attention.layer_norm_rms_epsilon", "expected a number, found no such key");
  c.rms_norm_eps = shortest_decimal(*eps);
  c.tied = !find_tensor(header, "output.weight");
  c.rope = rope_of(values, c.max_position, source);
  c.bos_token = token_id(values, "tokenizer.ggml.bos_token_id", c.vocab_size);
  if (const auto eos = token_id(values, "tokenizer.ggml.eos_token_id", c.vocab_size)) c.eos_tokens = {*eos};
  c.pad_token = token_id(values, "tokenizer.ggml.padding_token_id", c.vocab_size);
  return checked_config(std::move(c), source);
}

ModelConfig checked_config(ModelConfig config, std::string_view source) {
  return parse_model_config(make_model_config(config, "float32"), fmt::format("{} (as config.json)", source));
}

TokenizerParts gguf_tokenizer(const GgufHeader& header, std::string_view source) {
  const Values values(header, source);
  TokenizerParts t;
  t.model = values.string("tokenizer.ggml.model");
  t.pre = values.string("tokenizer.ggml.pre");
  t.tokens = values.strings("tokenizer.ggml.tokens");
  t.merges = values.strings("tokenizer.ggml.merges");
  t.scores = values.numbers<float>("tokenizer.ggml.scores");
  t.types = values.numbers<int32_t>("tokenizer.ggml.token_type");
  t.bos = values.integer("tokenizer.ggml.bos_token_id");
  t.eos = values.integer("tokenizer.ggml.eos_token_id");
  t.unknown = values.integer("tokenizer.ggml.unknown_token_id");
  t.padding = values.integer("tokenizer.ggml.padding_token_id");
  t.add_bos = values.boolean("tokenizer.ggml.add_bos_token");
  t.add_eos = values.boolean("tokenizer.ggml.add_eos_token");
  t.add_space_prefix = values.boolean("tokenizer.ggml.add_space_prefix");
  t.chat_template = values.string("tokenizer.chat_template");
  const auto check_count = [&](std::string_view key, size_t count) {
    if (count != 0 && count != t.tokens.size())
      refuse_key(source, key, fmt::format("expected {} elements, one a token, found {}", t.tokens.size(), count));
  };
  check_count("tokenizer.ggml.scores", t.scores.size());
  check_count("tokenizer.ggml.token_type", t.types.size());
  const GgufTensor* embedding = find_tensor(header, "token_embd.weight");
  if (embedding && !t.tokens.empty() && t.tokens.size() != static_cast<size_t>(embedding->shape[0])) {
    refuse_key(source, "tokenizer.ggml.tokens",
               fmt::format("expected {} tokens, one an embedding row, found {}", embedding->shape[0], t.tokens.size()));
  }
  return t;
}

std::string hugging_face_name(std::string_view name) {
  struct Pair {
    std::string_view gguf, hugging_face;
  };
  constexpr Pair kOutside[] = {
      {"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model.norm.weight"}, {"output.weight", "lm_head.weight"}};
  constexpr Pair kInLayer[] = {
      {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},   {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},    {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"},       {"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"}};
  for (const Pair& p : kOutside) {
    if (name == p.gguf) return std::string(p.hugging_face);
  }
  if (!name.starts_with("blk.") || !name.ends_with(".weight")) return std::string(name);
  const std::string_view rest = name.substr(4, name.size() - 4 - 7);
  const size_t dot = rest.find('.');
  if (dot == std::string_view::npos) return std::string(name);
  const std::string_view layer = rest.substr(0, dot);
  int number = -1;
  const auto [end, error] = std::from_chars(layer.data(), layer.data() + layer.size(), number);
  if (error != std::errc() || fmt::format("{}", number) != layer) return std::string(name);  // "blk.01" is another name than "blk.1"
  for (const Pair& p : kInLayer) {
    if (rest.substr(dot + 1) == p.gguf) return fmt::format("model.layers.{}.{}.weight", layer, p.hugging_face);
  }
  return std::string(name);
}

RopeScaling llama3_of_divisors(std::span<const float> divisors, double theta, std::string_view source) {
  constexpr double kTolerance = 1e-5;
  const int64_t head_dim = static_cast<int64_t>(divisors.size()) * 2;
  const std::vector<float> plain = rope_frequencies({.theta = theta}, head_dim, 1, 1);
  for (const double factor : {2.0, 4.0, 8.0, 16.0, 32.0, 64.0}) {
    const RopeScaling rope{.type = RopeType::llama3,
                           .theta = theta,
                           .factor = factor,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position = 8192};
    const std::vector<float> scaled = rope_frequencies(rope, head_dim, 1, 1);
    bool is_equal = true;
    for (size_t i = 0; i < divisors.size(); ++i) {
      const double wanted = static_cast<double>(plain[i]) / static_cast<double>(scaled[i]);
      is_equal &= std::abs(static_cast<double>(divisors[i]) - wanted) <= kTolerance * wanted;
    }
    if (is_equal) return rope;
  }
  fail(ErrorKind::data, "expected the divisors of llama3 scaling with factor 2 to 64 over 8192 positions, found others",
       fmt::format("{}: tensor rope_freqs.weight", source), "import the Hugging Face folder of this model instead");
}

}  // namespace longlora
