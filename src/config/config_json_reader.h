#pragma once
// Checked access to the members of config.json; problems are collected and thrown together.

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {

/// Range of a real number; `open_below` excludes the lower end.
struct RealRange {
  double low, high;
  bool open_below = false;
  bool holds(double v) const { return (open_below ? v > low : v >= low) && v <= high; }
  std::string text() const { return fmt::format("a number in {}{}, {}]", open_below ? "(" : "[", low, high); }
};

class ConfigJsonReader {
 public:
  explicit ConfigJsonReader(std::string_view source) : source_(source) {}

  /// "FILE: KEY: expected EXPECTED, found FOUND"
  void problem(std::string_view key, std::string_view expected, std::string_view found) {
    ++count_;
    if (lines_.size() < kShown) lines_.push_back(fmt::format("{}: expected {}, found {}", key, expected, found));
  }
  /// Integer in [low, high]; absent or null: `fallback`, or a problem when there is none.
  int64_t integer(const JsonValue& object, std::string_view key, int64_t low, int64_t high, std::optional<int64_t> fallback = {});
  double real(const JsonValue& object, std::string_view key, RealRange range, std::optional<double> fallback = {},
              std::string_view prefix = {});
  bool boolean(const JsonValue& object, std::string_view key, bool fallback, std::string_view prefix = {});
  /// Null when absent or null; a problem when neither string nor null.
  const std::string* string(const JsonValue& object, std::string_view key, std::string_view prefix = {});

  void raise() const;
  size_t count() const { return count_; }
  const std::string& source() const { return source_; }

 private:
  static constexpr size_t kShown = 20;
  std::string source_;
  std::vector<std::string> lines_;
  size_t count_ = 0;
};

/// A value as messages show it: numbers and short strings themselves, objects and arrays by kind.
std::string shown(const JsonValue&);
/// Present and not null.
const JsonValue* find_value(const JsonValue& object, std::string_view key);

}  // namespace longlora
