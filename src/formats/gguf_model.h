#pragma once
// From GGUF metadata to what a Hugging Face folder says: configuration, tokenizer lists, tensor names.

#include <string>
#include <string_view>

#include "formats/gguf_header.h"
#include "longlora/config/model_config.h"
#include "longlora/core/tokenizer_parts.h"

namespace longlora {

/// ErrorKind::data naming the key. RoPE scaling by rope_freqs.weight is added by the caller, who can read tensors.
ModelConfig gguf_model_config(const GgufHeader&, std::string_view source);
TokenizerParts gguf_tokenizer(const GgufHeader&, std::string_view source);
/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name without counterpart stays as it is.
std::string hugging_face_name(std::string_view gguf_name);
/// The llama3 scaling whose divisors these are (factor 2 .. 64, low 1, high 4, M0 8192), or ErrorKind::data.
RopeScaling llama3_of_divisors(std::span<const float> divisors, double theta, std::string_view source);
/// The configuration as checked config.json text.
ModelConfig checked_config(ModelConfig, std::string_view source);

}  // namespace longlora
