#pragma once
// longlora_train.json beside an adapter: what the base's config.json cannot know (docs/formats.md). RoPE stands in it the way
// config.json writes it, so there is one reader of RoPE.
#include <filesystem>
#include <string>
#include <string_view>

#include "longlora/checkpoint/model_io.h"

namespace longlora {

inline constexpr std::string_view kTrainRecordName = "longlora_train.json";

/// Keys and values that replace the base's: rope_theta, rope_scaling, max_position_embeddings, as JSON texts in this order.
std::vector<std::pair<std::string, std::string>> rope_keys(const ExportContext&);

std::string print_train_record(const LlamaModel&, const ExportContext&);
/// Fills rope, max_position, context, base_context, group, attention. Unknown format: ErrorKind::data.
void read_train_record(const std::filesystem::path& adapter_folder, const ModelConfig& base, AdapterInfo&);

}  // namespace longlora
