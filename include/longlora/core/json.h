#pragma once
// Strict, bounded JSON for untrusted text: nlohmann's SAX parser underneath, our own small tree above.
// Duplicate keys, invalid UTF-8, too deep nesting, too many values and non-finite numbers are errors with line and column.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace longlora {

struct JsonLimits {
  size_t max_bytes = size_t{1} << 20;
  size_t max_depth = 16;
  size_t max_values = 1'000'000;
};

/// A JSON value that remembers where it stood. Object members keep file order.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Member = std::pair<std::string, JsonValue>;
  using Object = std::vector<Member>;
  // unsigned integers, negative integers, and numbers with fraction or exponent are different kinds: sizes come only from uint64_t
  std::variant<std::nullptr_t, bool, uint64_t, int64_t, double, std::string, Array, Object> value = nullptr;
  uint32_t line = 0, column = 0;   // 1-based; of the value's first character
  uint32_t key_line = 0, key_column = 0;   // of the key, for a member of an object

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
  const Object* object() const { return std::get_if<Object>(&value); }
  const Array* array() const { return std::get_if<Array>(&value); }
  const std::string* string() const { return std::get_if<std::string>(&value); }
  const bool* boolean() const { return std::get_if<bool>(&value); }
  std::optional<uint64_t> unsigned_integer() const;            // only from plain decimal, non-negative
  std::optional<double> number() const;                        // any finite number
  const JsonValue* find(std::string_view key) const;           // nullptr when not an object or absent
  std::string_view type_name() const;                          // "object", "array", "string", "integer", "number", "true/false", "null"
};

/// Throws ErrorKind::data "FILE:LINE:COLUMN: ..." (the `source` name is used for the place).
JsonValue parse_json(std::string_view text, std::string_view source, const JsonLimits& = {});

/// Compact or indented (indent > 0) text; doubles always with a decimal point or exponent; shortest round-trip digits.
std::string dump_json(const JsonValue&, int indent = 0);
/// A JSON string literal with quotes and escapes (invalid UTF-8 replaced).
std::string json_quote(std::string_view);
/// Shortest decimal that parses back to `value`, with a decimal point ("4.0", "1e-05"); non-finite as "\"nan\"", "\"inf\"", "\"-inf\"".
std::string json_number(double value);

}  // namespace longlora
