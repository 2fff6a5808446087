#include "checkpoint/train_record.h"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "longlora/config/names.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr uint64_t kFormat = 1;
constexpr std::array<std::string_view, 3> kRopeKeys{"rope_theta", "rope_scaling", "max_position_embeddings"};
std::string print_object(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string text;
  for (const auto& [key, value] : members) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", json_quote(key), value);
  return "{" + text + "}";
}

const JsonValue& member(const JsonValue& root, std::string_view key, const std::string& source) {
  const JsonValue* value = root.find(key);
  LONGLORA_CHECK(value != nullptr, data, fmt::format("the key {} is missing", key), source, "export the adapter again");
  return *value;
}

int64_t integer(const JsonValue& root, std::string_view key, const std::string& source) {
  const auto number = member(root, key, source).unsigned_integer();
  LONGLORA_CHECK(number && *number <= uint64_t(std::numeric_limits<int64_t>::max()), data,
                 fmt::format("{} is not an unsigned integer", key), source, "export the adapter again");
  return static_cast<int64_t>(*number);
}

/// The base's config.json with the record's RoPE keys, read by the one reader of config.json.
ModelConfig with_rope(const ModelConfig& base, const JsonValue& rope, const std::string& source) {
  JsonValue config = parse_json(base.json, "config.json");
  auto& members = std::get<JsonValue::Object>(config.value);
  std::erase_if(members, [](const JsonValue::Member& m) { return m.first == "rope_parameters"; });
  for (const std::string_view key : kRopeKeys) {
    std::erase_if(members, [&](const JsonValue::Member& m) { return m.first == key; });
    if (const JsonValue* value = rope.find(key)) members.emplace_back(std::string(key), *value);
  }
  return parse_model_config(dump_json(config, 2), source);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> rope_keys(const ExportContext& context) {
  const ModelConfig& base = context.base->config;
  const std::string text = write_model_config(base, context.rope, "float32", base.tied, context.version);
  const JsonValue config = parse_json(text, "config.json");
  std::vector<std::pair<std::string, std::string>> members;
  for (const std::string_view key : kRopeKeys) {
    if (const JsonValue* value = config.find(key)) members.emplace_back(std::string(key), dump_json(*value));
  }
  // An unchanged base may carry its RoPE in the newer key.
  if (const JsonValue* value = config.find("rope_parameters"); value && value->object()) {
    std::erase_if(members, [](const auto& pair) { return pair.first != "max_position_embeddings"; });
    members.emplace_back("rope_parameters", dump_json(*value));
  }
  return members;
}

std::string print_train_record(const LlamaModel& model, const ExportContext& context) {
  const TrainConfig::Tuning& tuning = model.options().tuning;
  std::string text = fmt::format("{{\n  \"format\": {},\n  \"version\": {},\n  \"base_model\": {},\n", kFormat, json_quote(context.version),
                                 json_quote(context.base->path.string()));
  text += fmt::format("  \"context\": {},\n  \"base_context\": {},\n  \"rope\": {},\n", context.rope.new_context, context.rope.old_context,
                      print_object(rope_keys(context)));
  text += fmt::format("  \"attention\": {{\"kind\": \"{}\", \"group_size\": {}}},\n", name_of_value(context.attention), context.group);
  text += fmt::format("  \"rank\": {},\n  \"alpha\": {},\n  \"rslora\": {},\n  \"facts\": ", tuning.lora.rank,
                      json_number(tuning.lora.alpha), tuning.lora.rslora);
  std::vector<std::pair<std::string, std::string>> facts;
  for (const auto& [key, value] : context.card) facts.emplace_back(key, json_quote(value));
  return text + print_object(facts) + "\n}\n";
}

void read_train_record(const fs::path& adapter_folder, const ModelConfig& base, AdapterInfo& info) {
  const std::string source = (adapter_folder / kTrainRecordName).string();
  const JsonValue root = parse_json(read_file(adapter_folder / kTrainRecordName, uint64_t{1} << 20), source);
  LONGLORA_CHECK(integer(root, "format", source) == kFormat, data, "the record's format is not 1", source,
                 "use the program version that wrote it");
  const JsonValue& rope = member(root, "rope", source);
  if (rope.find("rope_parameters")) {
    info.rope = base.rope;  // unchanged
    info.max_position = base.max_position;
  } else {
    const ModelConfig config = with_rope(base, rope, source);
    info.rope = config.rope;
    info.max_position = config.max_position;
  }
  info.context = integer(root, "context", source);
  info.base_context = integer(root, "base_context", source);
  const JsonValue& attention = member(root, "attention", source);
  info.group = integer(attention, "group_size", source);
  const std::string* kind = member(attention, "kind", source).string();
  if (kind) info.attention = value_of_name<AttentionKind>(*kind);
  LONGLORA_CHECK(info.attention.has_value(), data, "attention.kind is not one of " + all_names<AttentionKind>(), source,
                 "export the adapter again");
}

}  // namespace longlora
