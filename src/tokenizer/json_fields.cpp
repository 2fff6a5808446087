#include "tokenizer/json_fields.h"

#include "longlora/core/error.h"

namespace longlora {

std::string JsonPlace::where() const {
  return std::string(file) + ":" + std::to_string(value->line) + ":" + std::to_string(value->column) + (path.empty() ? "" : ": " + path);
}

void JsonPlace::refuse(const std::string& what) const {
  fail(ErrorKind::data, what, where(), "use a tokenizer of a supported kind (docs/formats.md lists them)");
}

void JsonPlace::refuse_type(std::string_view expected) const {
  refuse("got " + std::string(value->type_name()) + ", expected " + std::string(expected));
}

std::optional<JsonPlace> JsonPlace::find(std::string_view key) const {
  object();
  const JsonValue* member = value->find(key);
  if (!member || member->is_null()) return std::nullopt;
  return JsonPlace{member, file, path.empty() ? std::string(key) : path + "." + std::string(key)};
}

JsonPlace JsonPlace::at(std::string_view key) const {
  auto member = find(key);
  if (!member) refuse("key '" + std::string(key) + "' is missing");
  return *std::move(member);
}

JsonPlace JsonPlace::item(size_t index) const { return {&array()[index], file, path + "[" + std::to_string(index) + "]"}; }

const JsonValue::Object& JsonPlace::object() const {
  if (!value->object()) refuse_type("object");
  return *value->object();
}

const JsonValue::Array& JsonPlace::array() const {
  if (!value->array()) refuse_type("array");
  return *value->array();
}

const std::string& JsonPlace::string() const {
  if (!value->string()) refuse_type("string");
  return *value->string();
}

bool JsonPlace::boolean() const {
  if (!value->boolean()) refuse_type("true or false");
  return *value->boolean();
}

uint64_t JsonPlace::unsigned_integer(uint64_t maximum) const {
  const auto number = value->unsigned_integer();
  if (!number) refuse_type("integer");
  if (*number > maximum) refuse("got " + std::to_string(*number) + ", at most " + std::to_string(maximum) + " allowed");
  return *number;
}

bool JsonPlace::boolean_or(std::string_view key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->boolean() : otherwise;
}

std::string JsonPlace::string_or(std::string_view key, std::string otherwise) const {
  const auto member = find(key);
  return member ? member->string() : otherwise;
}

}  // namespace longlora
