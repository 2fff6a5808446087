#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

void dump(const JsonValue& value, int indent, int depth, std::string& out);

void new_line(int indent, int depth, std::string& out) {
  if (indent > 0) out.append(1, '\n').append(static_cast<size_t>(indent * depth), ' ');
}

void dump_array(const JsonValue::Array& array, int indent, int depth, std::string& out) {
  out += '[';
  for (size_t i = 0; i < array.size(); ++i) {
    if (i > 0) out += ',';
    new_line(indent, depth + 1, out);
    dump(array[i], indent, depth + 1, out);
  }
  if (!array.empty()) new_line(indent, depth, out);
  out += ']';
}

void dump_object(const JsonValue::Object& object, int indent, int depth, std::string& out) {
  out += '{';
  for (size_t i = 0; i < object.size(); ++i) {
    if (i > 0) out += ',';
    new_line(indent, depth + 1, out);
    out += json_quote(object[i].first);
    out += indent > 0 ? ": " : ":";
    dump(object[i].second, indent, depth + 1, out);
  }
  if (!object.empty()) new_line(indent, depth, out);
  out += '}';
}

void dump(const JsonValue& value, int indent, int depth, std::string& out) {
  if (value.is_null()) out += "null";
  else if (const bool* boolean = value.boolean()) out += *boolean ? "true" : "false";
  else if (const auto* positive = std::get_if<uint64_t>(&value.value)) out += std::to_string(*positive);
  else if (const auto* integer = std::get_if<int64_t>(&value.value)) out += std::to_string(*integer);
  else if (const auto* real = std::get_if<double>(&value.value)) out += json_number(*real);
  else if (const std::string* text = value.string()) out += json_quote(*text);
  else if (const auto* array = value.array()) dump_array(*array, indent, depth, out);
  else dump_object(*value.object(), indent, depth, out);
}

}  // namespace

std::optional<uint64_t> JsonValue::unsigned_integer() const {
  const auto* const integer = std::get_if<uint64_t>(&value);
  return integer ? std::optional(*integer) : std::nullopt;
}

std::optional<double> JsonValue::number() const {
  if (const auto* const positive = std::get_if<uint64_t>(&value)) return static_cast<double>(*positive);
  if (const auto* const integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* const real = std::get_if<double>(&value)) return *real;
  return std::nullopt;
}

const JsonValue* JsonValue::find(std::string_view key) const {
  if (const Object* const members = object())
    for (const Member& member : *members)
      if (member.first == key) return &member.second;
  return nullptr;
}

std::string_view JsonValue::type_name() const {
  static constexpr std::string_view kNames[] = {"null", "true/false", "integer", "integer", "number", "string", "array", "object"};
  return kNames[value.index()];
}

std::string dump_json(const JsonValue& value, int indent) {
  std::string out;
  dump(value, indent, 0, out);
  return out;
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const size_t valid = invalid_utf8_at(text).value_or(text.size());
    for (const char c : text.substr(0, valid)) {
      if (c == '"' || c == '\\') out.append(1, '\\').append(1, c);
      else if (c == '\n') out += "\\n";
      else if (c == '\t') out += "\\t";
      else if (c == '\r') out += "\\r";
      else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) out += fmt::format("\\u{:04x}", static_cast<uint8_t>(c));
      else out += c;
    }
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += "\xef\xbf\xbd";   // U+FFFD for each byte that is not UTF-8
    text.remove_prefix(1);
  }
  return out + '"';
}

std::string json_number(double value) {
  if (std::isnan(value)) return "\"nan\"";
  if (std::isinf(value)) return value > 0 ? "\"inf\"" : "\"-inf\"";
  char digits[32];
  const auto result = std::to_chars(digits, digits + sizeof digits, value);
  std::string text(digits, result.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

}  // namespace longlora
