// A configuration as text: YAML for people, canonical JSON for digests, single values for messages.

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "config/codec.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

/// True when YAML reads the bare word as the same text, in lists and mappings too.
bool is_plain_word(std::string_view text) {
  const auto is_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("_./-").find(c) != std::string_view::npos;
  };
  if (text.empty() || text[0] == '-' || text == "null" || text == "true" || text == "false") return false;
  return std::all_of(text.begin(), text.end(), is_word);
}

std::string yaml_text(const JsonValue& value, std::string_view absent);

std::string entry_text(const JsonValue::Object& entry) {
  const JsonValue defaults = write_value(DataEntry{});
  std::vector<std::string> parts;
  for (const auto& [key, value] : entry)
    if (key == "path" || dump_json(value) != dump_json(*defaults.find(key)))
      parts.push_back(fmt::format("{}: {}", key, yaml_text(value, "none")));
  return fmt::format("{{{}}}", fmt::join(parts, ", "));
}

std::string yaml_text(const JsonValue& value, std::string_view absent) {
  if (value.is_null()) return std::string(absent);
  if (const std::string* const text = value.string()) return is_plain_word(*text) ? *text : json_quote(*text);
  if (const auto* const object = value.object()) return entry_text(*object);
  const auto* const array = value.array();
  if (!array) return dump_json(value);
  std::vector<std::string> items;
  for (const JsonValue& item : *array) items.push_back(yaml_text(item, absent));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

std::vector<std::string> path_of(std::string_view key) { return split(key, '.'); }

/// Opens the sections of `key` that the key before it had not opened; returns the indentation of the key itself.
size_t open_sections(const std::vector<std::string>& path, const std::vector<std::string>& before, std::string& out) {
  size_t common = 0;
  while (common + 1 < path.size() && common + 1 < before.size() && path[common] == before[common]) ++common;
  for (; common + 1 < path.size(); ++common) out += fmt::format("{:{}}{}:\n", "", 2 * common, path[common]);
  return 2 * (path.size() - 1);
}

JsonValue& member_of(JsonValue& object, const std::string& name) {
  if (!object.object()) object.value = JsonValue::Object{};
  auto& members = std::get<JsonValue::Object>(object.value);
  for (auto& member : members)
    if (member.first == name) return member.second;
  return members.emplace_back(name, JsonValue{}).second;
}

void sort_members(JsonValue& value) {
  if (auto* const array = std::get_if<JsonValue::Array>(&value.value)) std::for_each(array->begin(), array->end(), sort_members);
  auto* const object = std::get_if<JsonValue::Object>(&value.value);
  if (!object) return;
  std::sort(object->begin(), object->end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& member : *object) sort_members(member.second);
}

/// Paths say where data stands, not what it is: the frozen part of data.train is the rest.
JsonValue without_paths(JsonValue entries) {
  for (JsonValue& entry : std::get<JsonValue::Array>(entries.value))
    std::erase_if(std::get<JsonValue::Object>(entry.value), [](const auto& member) { return member.first == "path"; });
  return entries;
}

/// `preset` is an instruction that has been carried out; what it set stands in the other keys.
template <class Keep>
std::string canonical(const TrainConfig& config, bool with_paths, Keep keep) {
  JsonValue root;
  root.value = JsonValue::Object{};
  visit_fields([&](const Row& row, const auto& member, const auto&) {
    if (row.key == "preset" || !keep(row)) return;
    JsonValue* place = &root;
    for (const std::string& name : path_of(row.key)) place = &member_of(*place, name);
    *place = write_value(member);
    if (row.key == "data.train" && !with_paths) *place = without_paths(std::move(*place));
  }, config);
  sort_members(root);
  return dump_json(root);
}

std::string plain_text(const JsonValue& value) {
  const std::string* const text = value.string();
  return text ? *text : yaml_text(value, "null");
}

}  // namespace

std::string print_config(const TrainConfig& config, const Origins& origins) {
  std::string out;
  if (!origins.empty() && !config.preset.empty()) out += fmt::format("# preset {}, resolved\n", escape(config.preset));
  std::vector<std::string> before;
  visit_fields([&](const Row& row, const auto& member, const auto&) {
    if (row.key == "preset") return;
    const std::vector<std::string> path = path_of(row.key);
    const size_t indent = open_sections(path, before, out);
    before = path;
    out += fmt::format("{:{}}{}: {}", "", indent, path.back(), yaml_text(write_value(member), row.absent));
    if (const auto origin = origins.find(std::string(row.key)); origin != origins.end()) out += "   # " + escape(origin->second);
    out += '\n';
  }, config);
  return out;
}

std::string canonical_json(const TrainConfig& config) {
  return canonical(config, true, [](const Row&) { return true; });
}

std::string canonical_json(const TrainConfig& config, ResumeClass only) {
  return canonical(config, false, [&](const Row& row) { return row.resume == only; });
}

std::string value_of(const TrainConfig& config, std::string_view key) {
  std::optional<std::string> text;
  visit_fields([&](const Row& row, const auto& member, const auto&) {
    if (row.key == key) text = plain_text(write_value(member));
  }, config);
  LONGLORA_INVARIANT(text.has_value());
  return *text;
}

std::vector<KeyDifference> differing_keys(const TrainConfig& old_config, const TrainConfig& new_config) {
  std::map<std::string_view, JsonValue> old_values;
  visit_fields([&](const Row& row, const auto& member, const auto&) { old_values[row.key] = write_value(member); }, old_config);
  std::vector<KeyDifference> differences;
  visit_fields([&](const Row& row, const auto& member, const auto&) {
    const JsonValue &old_value = old_values[row.key], new_value = write_value(member);
    if (row.key == "preset" || dump_json(old_value) == dump_json(new_value)) return;
    const bool paths_only = row.key == "data.train" && dump_json(without_paths(old_value)) == dump_json(without_paths(new_value));
    differences.push_back(
        {std::string(row.key), plain_text(old_value), plain_text(new_value), paths_only ? ResumeClass::free : row.resume});
  }, new_config);
  return differences;
}

}  // namespace longlora
