// What people and editors read about the keys: key list, JSON Schema, docs/config.md.

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "config/codec.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

JsonValue text_json(std::string_view text) { return json_of(std::string(text)); }

JsonValue object_json(std::initializer_list<JsonValue::Member> members) { return json_of(JsonValue::Object(members)); }

JsonValue word_list(const std::vector<std::string>& words) {
  JsonValue::Array items;
  for (const std::string& word : words) items.push_back(text_json(word));
  return json_of(std::move(items));
}

JsonValue any_of(std::initializer_list<JsonValue> schemas) { return object_json({{"anyOf", json_of(JsonValue::Array(schemas))}}); }

JsonValue schema_of(const int64_t*, const Integers& allowed) {
  JsonValue integer =
      object_json({{"type", text_json("integer")}, {"minimum", write_value(allowed.low)}, {"maximum", write_value(allowed.high)}});
  if (allowed.even) std::get<JsonValue::Object>(integer.value).emplace_back("multipleOf", json_of(uint64_t{2}));
  if (allowed.unit == Unit::none) return integer;
  const char* const pattern =
      allowed.unit == Unit::tokens ? "^[0-9]+(\\.[0-9]+)?[kM]$" : "^[0-9]+(\\.[0-9]+)?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB|k|M|G)$";
  return any_of({std::move(integer), object_json({{"type", text_json("string")}, {"pattern", text_json(pattern)}})});
}

JsonValue schema_of(const double*, const Reals& allowed) {
  return object_json({{"type", text_json("number")},
                      {allowed.open_low ? "exclusiveMinimum" : "minimum", json_of(allowed.low)},
                      {allowed.open_high ? "exclusiveMaximum" : "maximum", json_of(allowed.high)}});
}

JsonValue schema_of(const bool*, const Words&) { return object_json({{"type", text_json("boolean")}}); }

JsonValue schema_of(const std::string*, const Text& allowed) {
  if (!allowed.choices.empty()) {
    std::vector<std::string> words = split(allowed.choices, ',');
    for (std::string& word : words) word = std::string(trim(word));
    return object_json({{"enum", word_list(words)}});
  }
  JsonValue schema = object_json({{"type", text_json("string")}});
  if (allowed.required) std::get<JsonValue::Object>(schema.value).emplace_back("minLength", json_of(uint64_t{1}));
  return schema;
}

template <class E> requires std::is_enum_v<E>
JsonValue schema_of(const E*, const Words&) {
  std::vector<std::string> words;
  for (const auto& name : names_of(E{})) words.emplace_back(name.text);
  return object_json({{"enum", word_list(words)}});
}

template <class T, class A>
JsonValue schema_of(const std::optional<T>*, const A& allowed) { return schema_of(static_cast<const T*>(nullptr), allowed); }

void describe_member(JsonValue& schema, const Row& row) {
  std::get<JsonValue::Object>(schema.value).emplace_back("description", text_json(row.help));
}

JsonValue schema_of(const std::vector<DataEntry>*, const Entries&) {
  JsonValue::Object properties;
  DataEntry entry;
  visit_entry([&](const Row& row, const auto& field, const auto& allowed) {
    JsonValue schema = schema_of(&field, allowed);
    describe_member(schema, row);
    properties.emplace_back(std::string(row.key), std::move(schema));
  }, entry);
  JsonValue items = object_json({{"type", text_json("object")}, {"properties", json_of(std::move(properties))},
                                 {"required", word_list({"path"})}, {"additionalProperties", json_of(false)}});
  return object_json({{"type", text_json("array")}, {"items", std::move(items)}});
}

template <class T, class A> requires(!std::is_same_v<T, DataEntry>)
JsonValue schema_of(const std::vector<T>*, const A& allowed) {
  JsonValue schema = object_json({{"type", text_json("array")}, {"items", schema_of(static_cast<const T*>(nullptr), allowed)}});
  if constexpr (std::is_same_v<A, Reals>)
    for (const char* const bound : {"minItems", "maxItems"})
      if (allowed.count != 0) std::get<JsonValue::Object>(schema.value).emplace_back(bound, json_of(uint64_t{allowed.count}));
  return schema;
}

template <class T, class A>
JsonValue key_schema(const Row& row, const T& member, const A& allowed) {
  JsonValue schema = schema_of(&member, allowed);
  if constexpr (is_optional<T>::value) {
    JsonValue unset = object_json({{"enum", json_of(JsonValue::Array{text_json(row.absent), JsonValue{}})}});
    schema = any_of({std::move(schema), std::move(unset)});
  }
  describe_member(schema, row);
  return schema;
}

/// The "properties" object of a section, made on first use.
JsonValue::Object& properties_of(JsonValue& root, std::span<const std::string> sections) {
  JsonValue* node = &root;
  for (const std::string& section : sections) {
    auto& properties = std::get<JsonValue::Object>(const_cast<JsonValue*>(node->find("properties"))->value);
    const auto found = std::find_if(properties.begin(), properties.end(), [&](const auto& member) { return member.first == section; });
    node = found != properties.end() ? &found->second
                                     : &properties
                                            .emplace_back(section, object_json({{"type", text_json("object")},
                                                                                {"additionalProperties", json_of(false)},
                                                                                {"properties", json_of(JsonValue::Object{})}}))
                                            .second;
  }
  return std::get<JsonValue::Object>(const_cast<JsonValue*>(node->find("properties"))->value);
}

std::string_view name_of_class(ResumeClass resume) {
  return resume == ResumeClass::frozen ? "frozen" : resume == ResumeClass::explicit_ ? "explicit" : "free";
}

/// Text inside a Markdown table cell.
std::string cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

constexpr std::string_view kDocsHead = R"(# Configuration

Generated from the field table in `src/config/fields.h`; do not edit.

YAML (one document, UTF-8, at most 1 MiB; no anchors, aliases, tags or merge keys) or JSON with the same keys. Numbers are decimal
(`2e-5` is a number, `010` an error); token counts may be written `32k` = 32768, byte counts `5GB` or `2GiB`; booleans are `true` and
`false`. All problems are reported together, each with file, line, column and the nearest key.
Precedence: default, preset, file, environment (`LONGLORA_TRAIN__SEED=1`), `--set train.seed=1`, dedicated flag.

Resume: a difference in a *frozen* key is refused; an *explicit* key takes a new value only through `--set`; a *free* key follows the new
command.
)";

constexpr std::string_view kDocsExitCodes = R"(
## Exit codes

The last line on stderr is `longlora-train: error[NAME]: WHAT (WHERE); WHAT TO DO`.

| code | name | when | run again unchanged? |
|---|---|---|---|
| 0 | done | finished; no error line | - |
)";

}  // namespace

std::vector<KeyInfo> config_keys() {
  std::vector<KeyInfo> keys;
  const TrainConfig defaults;
  visit_fields([&](const Row& row, const auto& member, const auto& allowed) {
    const bool unset = write_value(member).is_null();
    std::string shown = row.required ? "required" : unset ? std::string(row.absent) : value_of(defaults, row.key);
    if (!row.shown_default.empty()) shown = row.shown_default;
    keys.push_back({std::string(row.key), shown, describe(&member, allowed), std::string(row.help), row.resume});
  }, defaults);
  return keys;
}

std::string config_schema() {
  JsonValue root =
      object_json({{"$schema", text_json("http://json-schema.org/draft-07/schema#")},
                   {"title", text_json("longlora-train configuration")},
                   {"type", text_json("object")},
                   {"additionalProperties", json_of(false)},
                   {"anyOf", json_of(JsonValue::Array{object_json({{"required", word_list({"preset"})}}),
                                                      object_json({{"required", word_list({"model", "data", "output_dir"})}})})},
                   {"properties", json_of(JsonValue::Object{})}});
  const TrainConfig defaults;
  visit_fields([&](const Row& row, const auto& member, const auto& allowed) {
    const std::vector<std::string> path = split(row.key, '.');
    properties_of(root, std::span(path).first(path.size() - 1)).emplace_back(path.back(), key_schema(row, member, allowed));
  }, defaults);
  return dump_json(root, 2) + "\n";
}

std::string config_markdown() {
  std::string out(kDocsHead);
  std::string section = "-";
  for (const KeyInfo& key : config_keys()) {
    const std::string here = key.key.find('.') == std::string::npos ? "" : split(key.key, '.').front();
    if (here != section) {
      out += here.empty() ? "\n## Top level\n\n" : fmt::format("\n## {}\n\n", here);
      out += "| key | default | allowed | meaning | resume |\n|---|---|---|---|---|\n";
      section = here;
    }
    const std::string shown_default = key.default_text.empty() ? "empty" : "`" + key.default_text + "`";
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.key, cell(shown_default), cell(key.allowed), cell(key.help),
                       name_of_class(key.resume));
  }
  DataEntry entry;
  out += "\n## Entries of data.train and data.validation\n\n| key | allowed | meaning |\n|---|---|---|\n";
  visit_entry([&](const Row& row, const auto& member, const auto& allowed) {
    out += fmt::format("| `{}` | {} | {} |\n", row.key, cell(describe(&member, allowed)), cell(std::string(row.help)));
  }, entry);
  out += kDocsExitCodes;
  for (const ExitCode& code : exit_codes())
    out += fmt::format("| {} | {} | {} | {} |\n", code.code, code.name, code.sentence, code.retry_unchanged ? "yes" : "no");
  return out + "| 128+n | forced | second signal n | no |\n";
}

}  // namespace longlora
