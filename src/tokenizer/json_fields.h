#pragma once
// Reading members of a JSON object with places: every refusal names file:line:column and the key's path.

#include <optional>
#include <string>
#include <string_view>

#include "longlora/core/json.h"

namespace longlora {

/// A JSON value with the file and the path that lead to it ("tokenizer.json", "decoder.decoders[1].content").
struct JsonPlace {
  const JsonValue* value;
  std::string_view file;
  std::string path;

  std::string where() const;                                          // "tokenizer.json:12:7: decoder.type"
  [[noreturn]] void refuse(const std::string& what) const;            // ErrorKind::data
  [[noreturn]] void refuse_type(std::string_view expected) const;

  /// Member by name; an absent member and null are both nullopt.
  std::optional<JsonPlace> find(std::string_view key) const;
  JsonPlace at(std::string_view key) const;                           // absent or null: refused
  JsonPlace item(size_t index) const;                                 // of an array

  const JsonValue::Object& object() const;
  const JsonValue::Array& array() const;
  const std::string& string() const;
  bool boolean() const;
  uint64_t unsigned_integer(uint64_t maximum) const;

  bool boolean_or(std::string_view key, bool otherwise) const;
  std::string string_or(std::string_view key, std::string otherwise) const;
};

}  // namespace longlora
