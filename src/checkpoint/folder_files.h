#pragma once
// The small files of a Hugging Face folder: tokenizer, generation configuration, model card.
#include <filesystem>
#include <string>
#include <string_view>

#include "longlora/checkpoint/model_io.h"

namespace longlora {

/// One new file, synced.
void write_synced(const std::filesystem::path& folder, const std::string& name, std::string_view text);

/// Copies the base's tokenizer files byte for byte, but for a model_max_length below `context`; from a GGUF base they are made.
void write_tokenizer_files(const BaseModel&, const std::filesystem::path& folder, int64_t context);

/// tokenizer_config.json with a smaller model_max_length replaced by `context`: only the bytes of that number change.
std::string with_model_max_length(const std::string& json, int64_t context, std::string_view source);

/// The base's generation_config.json, if it has one. Sampling parameters without do_sample get it; a shorter length limit goes.
void write_generation_config(const BaseModel&, const std::filesystem::path& folder, int64_t context);
std::string adapted_generation_config(const std::string& json, int64_t context, std::string_view source);

/// README.md: base, licence, context and RoPE change, facts, and how to use the folder.
std::string model_card(const ExportContext&, std::string_view title, std::string_view usage);

}  // namespace longlora
