#include "tokenizer/policy.h"

#include <charconv>

#include "longlora/core/json.h"
#include "tokenizer/json_steps.h"
#include "tokenizer/vocabulary.h"

namespace longlora {
namespace {

constexpr JsonLimits kLimits{.max_bytes = size_t{64} << 20, .max_depth = 16, .max_values = 16'000'000};

/// "<s>" or {"content": "<s>", ...}.
std::optional<std::string> read_token_name(const std::optional<JsonPlace>& place) {
  if (!place) return std::nullopt;
  return place->value->object() ? place->at("content").string() : place->string();
}

std::optional<bool> read_optional(const std::optional<JsonPlace>& place) {
  return place ? std::optional(place->boolean()) : std::nullopt;
}

std::vector<AddedToken> read_added_tokens(const std::optional<JsonPlace>& place) {
  std::vector<AddedToken> tokens;
  if (!place) return tokens;
  for (const auto& [key, value] : place->object()) {
    const JsonPlace entry{&value, place->file, place->path + "." + key};
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0 || static_cast<size_t>(id) >= kMaxTokens) {
      entry.refuse("key '" + key + "' is no token id");
    }
    tokens.push_back(read_added_token(entry, id));
  }
  return tokens;
}

}  // namespace

TokenizerPolicy read_policy(std::string_view text, std::string_view file) {
  const JsonValue tree = parse_json(text, file, kLimits);
  const JsonPlace root{&tree, file, ""};
  TokenizerPolicy policy;
  policy.bos_token = read_token_name(root.find("bos_token"));
  policy.eos_token = read_token_name(root.find("eos_token"));
  policy.adds_bos = read_optional(root.find("add_bos_token"));
  policy.adds_eos = read_optional(root.find("add_eos_token"));
  policy.legacy = root.boolean_or("legacy", true);
  policy.added_tokens = read_added_tokens(root.find("added_tokens_decoder"));
  return policy;
}

}  // namespace longlora
