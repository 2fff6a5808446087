#include "checkpoint/folder_files.h"

#include <fmt/format.h>

#include <array>

#include "checkpoint/folder_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/formats/gguf.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora {
namespace {

constexpr uint64_t kMaxTokenizerBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxSmallBytes = uint64_t{1} << 20;
constexpr std::array<std::string_view, 7> kTokenizerFiles{
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "merges.txt"};

bool is_tokenizer_file(const std::string& name) {
  return name.starts_with("chat_template.") || std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end();
}

std::string read_in(const fs::path& folder, const std::string& name, uint64_t max_bytes) {
  const InputFile file = InputFile::open_in(folder, name);
  LONGLORA_CHECK(file.size() <= max_bytes, data, fmt::format("the file is larger than {}", human_bytes(max_bytes)),
                 (folder / name).string(), "check the file");
  std::string text = file.read_text(0, file.size());
  file.check_unchanged();
  return text;
}

/// Byte offset of a 1-based line and column (columns count bytes or characters alike up to the first non-ASCII byte of the line).
size_t offset_of(std::string_view text, uint32_t line, uint32_t column) {
  size_t offset = 0;
  for (uint32_t at = 1; at < line; ++at) offset = text.find('\n', offset) + 1;
  return offset + column - 1;
}

std::string licence_of(const fs::path& base) {
  if (!fs::is_directory(base) || !fs::is_regular_file(base / "README.md")) return "";
  const InputFile file = InputFile::open_in(base, "README.md");
  const std::string text = file.read_text(0, std::min<uint64_t>(file.size(), 8192));
  for (const std::string& line : split(text, '\n')) {
    if (line.starts_with("license:")) return std::string(trim(std::string_view(line).substr(8)));
  }
  return "";
}

}  // namespace

void write_synced(const fs::path& folder, const std::string& name, std::string_view text) {
  OutputFile file = OutputFile::create(folder / name);
  file.write_all(text);
  file.sync();
  file.close();
}

std::string with_model_max_length(const std::string& json, int64_t context, std::string_view source) {
  const JsonValue root = parse_json(json, source, {.max_bytes = kMaxTokenizerBytes});
  const JsonValue* limit = root.find("model_max_length");
  const auto tokens = limit ? limit->unsigned_integer() : std::nullopt;
  if (!tokens || *tokens >= static_cast<uint64_t>(context)) return json;
  const std::string digits = std::to_string(*tokens);
  const size_t at = offset_of(json, limit->line, limit->column);
  LONGLORA_INVARIANT(json.compare(at, digits.size(), digits) == 0);
  return std::string(json).replace(at, digits.size(), std::to_string(context));
}

void write_tokenizer_files(const BaseModel& base, const fs::path& folder, int64_t context) {
  if (base.is_gguf) {
    const GgufFile file(base.path);
    for (const NamedFile& made : tokenizer_files_from_gguf(file.tokenizer(), base.config.vocab_size, context)) {
      write_synced(folder, made.name, made.bytes);
    }
    return;
  }
  for (const std::string& name : names_in(base.path)) {
    if (!is_tokenizer_file(name) || fs::is_directory(base.path / name)) continue;
    std::string bytes = read_in(base.path, name, kMaxTokenizerBytes);
    if (name == "tokenizer_config.json") bytes = with_model_max_length(bytes, context, (base.path / name).string());
    write_synced(folder, name, bytes);
  }
}

std::string adapted_generation_config(const std::string& json, int64_t context, std::string_view source) {
  JsonValue root = parse_json(json, source);
  if (!root.object()) return json;
  auto& members = std::get<JsonValue::Object>(root.value);
  const auto is_set = [&](std::string_view key) {
    const JsonValue* value = root.find(key);
    return value && !value->is_null();
  };
  bool changed = false;
  if ((is_set("temperature") || is_set("top_p")) && !root.find("do_sample")) {
    JsonValue yes;
    yes.value = true;
    members.emplace_back("do_sample", std::move(yes));
    changed = true;
  }
  const auto is_short_limit = [&](const JsonValue::Member& member) {
    const auto tokens = member.first == "max_length" ? member.second.unsigned_integer() : std::nullopt;
    return tokens && *tokens < static_cast<uint64_t>(context);
  };
  changed = std::erase_if(members, is_short_limit) > 0 || changed;
  return changed ? dump_json(root, 2) + "\n" : json;
}

void write_generation_config(const BaseModel& base, const fs::path& folder, int64_t context) {
  const std::string name = "generation_config.json";
  if (base.is_gguf || !exists_without_following(base.path / name)) return;
  write_synced(folder, name, adapted_generation_config(read_in(base.path, name, kMaxSmallBytes), context, (base.path / name).string()));
}

std::string model_card(const ExportContext& context, std::string_view title, std::string_view usage) {
  const std::string licence = licence_of(context.base->path);
  std::string text = "---\n";
  if (!licence.empty()) text += "license: " + licence + "\n";
  text += fmt::format("library_name: transformers\ntags:\n- long-context\n- longlora\n---\n\n# {}\n\n", title);
  text += fmt::format("Made by longlora-train {} from `{}`: {}.\n\n", context.version, context.base->path.string(), context.rope.summary());
  text += "Training may use shifted sparse attention; **inference uses full attention**, nothing special is needed.\n\n";
  for (const auto& [fact, value] : context.card) text += fmt::format("- {}: {}\n", fact, value);
  text += fmt::format("- licence: {}\n\n",
                      licence.empty() ? "as the base model's, which states none in its README" : licence + " (of the base model)");
  return text + std::string(usage);
}

}  // namespace longlora
