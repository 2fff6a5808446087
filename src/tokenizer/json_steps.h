#pragma once
// The parts of tokenizer.json around the model, read from JSON. Every unsupported type or setting is refused by name.

#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoders.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/text_steps.h"

namespace longlora {

/// Each takes the member's value (nullopt: null or absent, no steps). Sequences are flattened.
std::vector<Normalizer> read_normalizer(const std::optional<JsonPlace>&);
std::vector<PreTokenizer> read_pre_tokenizer(const std::optional<JsonPlace>&);
std::vector<Decoder> read_decoder(const std::optional<JsonPlace>&);

/// What TemplateProcessing puts before and after a single text.
struct AroundText {
  std::optional<int32_t> before, after;
};
AroundText read_post_processor(const std::optional<JsonPlace>&);

/// {id, content, special, single_word, lstrip, rstrip, normalized}; `id` is given where the key holds it (tokenizer_config.json).
AddedToken read_added_token(const JsonPlace&, std::optional<int32_t> id = std::nullopt);

}  // namespace longlora
