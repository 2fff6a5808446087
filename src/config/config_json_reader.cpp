#include "config/config_json_reader.h"

namespace longlora {

std::string shown(const JsonValue& value) {
  if (const std::string* text = value.string()) return fmt::format("\"{}\"", escape(*text, 60));
  if (const bool* flag = value.boolean()) return *flag ? "true" : "false";
  if (value.object() || value.array()) return fmt::format("an {}", value.type_name());
  return dump_json(value);
}

const JsonValue* find_value(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value && !value->is_null() ? value : nullptr;
}

int64_t ConfigJsonReader::integer(const JsonValue& object, std::string_view key, int64_t low, int64_t high,
                                  std::optional<int64_t> fallback) {
  const JsonValue* value = find_value(object, key);
  const std::string expected = fmt::format("an integer in [{}, {}]", low, high);
  if (!value) {
    if (!fallback) problem(key, expected, "no such key");
    return fallback.value_or(low);
  }
  const auto number = value->unsigned_integer();
  if (!number || *number > static_cast<uint64_t>(high) || static_cast<int64_t>(*number) < low) {
    problem(key, expected, shown(*value));
    return fallback.value_or(low);
  }
  return static_cast<int64_t>(*number);
}

namespace {

std::string path_of(std::string_view prefix, std::string_view key) {
  return prefix.empty() ? std::string(key) : fmt::format("{}.{}", prefix, key);
}

}  // namespace

double ConfigJsonReader::real(const JsonValue& object, std::string_view key, RealRange range, std::optional<double> fallback,
                              std::string_view prefix) {
  const JsonValue* value = find_value(object, key);
  if (!value) {
    if (!fallback) problem(path_of(prefix, key), range.text(), "no such key");
    return fallback.value_or(range.high);
  }
  const auto number = value->number();
  if (!number || !range.holds(*number)) {
    problem(path_of(prefix, key), range.text(), shown(*value));
    return fallback.value_or(range.high);
  }
  return *number;
}

bool ConfigJsonReader::boolean(const JsonValue& object, std::string_view key, bool fallback, std::string_view prefix) {
  const JsonValue* value = find_value(object, key);
  if (!value) return fallback;
  if (const bool* flag = value->boolean()) return *flag;
  problem(path_of(prefix, key), "true or false", shown(*value));
  return fallback;
}

const std::string* ConfigJsonReader::string(const JsonValue& object, std::string_view key, std::string_view prefix) {
  const JsonValue* value = find_value(object, key);
  if (!value) return nullptr;
  if (!value->string()) problem(path_of(prefix, key), "a string", shown(*value));
  return value->string();
}

void ConfigJsonReader::raise() const {
  if (count_ == 0) return;
  std::vector<std::string> details;
  if (count_ > 1) {
    for (const std::string& line : lines_) details.push_back(fmt::format("{}: {}", source_, line));
  }
  fail(ErrorKind::data, count_ == 1 ? lines_.front() : fmt::format("{} problems, the first: {}", count_, lines_.front()), source_,
       "correct the file or use another model", std::move(details));
}

}  // namespace longlora
