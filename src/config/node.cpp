#include "config/node.h"

#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {

namespace {

constexpr JsonLimits kJsonLimits{.max_bytes = size_t{1} << 20, .max_depth = 8, .max_values = 100'000};

Node node_of(const JsonValue& value, const std::string& source) {
  Node node;
  node.place = {source, value.line, value.column};
  node.kind = Node::Kind::literal;
  if (const auto* const object = value.object()) {
    node.kind = Node::Kind::map;
    for (const auto& [key, member] : *object)
      node.members.push_back({key, {source, member.key_line, member.key_column}, node_of(member, source)});
  } else if (const auto* const array = value.array()) {
    node.kind = Node::Kind::list;
    for (const JsonValue& item : *array) node.items.push_back(node_of(item, source));
  } else if (const std::string* const text = value.string()) {
    node.kind = Node::Kind::quoted;
    node.text = *text;
  } else {
    node.text = dump_json(value);
  }
  return node;
}

/// "run.json:3:5" back into its parts.
FilePlace parse_place(const std::string& where, const std::string& source) {
  FilePlace place{source, 0, 0};
  if (where.starts_with(source)) std::sscanf(where.c_str() + source.size(), ":%u:%u", &place.line, &place.column);
  return place;
}

}  // namespace

std::string FilePlace::text() const { return line == 0 ? file : fmt::format("{}:{}:{}", file, line, column); }

bool Node::is_null() const {
  return (kind == Kind::plain && (text.empty() || text == "~" || text == "null")) || (kind == Kind::literal && text == "null");
}

std::string Node::shown() const {
  if (kind == Kind::list) return "a list";
  if (kind == Kind::map) return "a mapping";
  if (is_null()) return "nothing";
  return kind == Kind::quoted ? fmt::format("the string '{}'", escape(text, 60)) : fmt::format("'{}'", escape(text, 60));
}

std::string Issue::message() const { return advice.empty() ? what : what + "; " + advice; }

std::optional<Node> read_json(std::string_view text, const std::string& source, Issues& issues) {
  try {
    Node node = node_of(parse_json(text, source, kJsonLimits), source);
    if (node.kind == Node::Kind::map) return node;
    issues.push_back({node.place, "", fmt::format("found {}, expected an object", node.shown()), "write { ... }"});
  } catch (const Error& error) {   // becomes one problem among the others
    issues.push_back({parse_place(error.where, source), "", error.what_happened, error.what_to_do});
  }
  return std::nullopt;
}

}  // namespace longlora
