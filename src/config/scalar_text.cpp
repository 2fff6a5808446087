#include "longlora/config/scalar_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "config/bounds.h"
#include "longlora/core/error.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

struct UnitName {
  std::string_view text;
  double factor;
};
constexpr std::array kTokenUnits = {UnitName{"k", 0x1p10}, UnitName{"M", 0x1p20}};
constexpr std::array kByteUnits = {UnitName{"B", 1},        UnitName{"kB", 1e3},     UnitName{"MB", 1e6},     UnitName{"GB", 1e9},
                                   UnitName{"TB", 1e12},    UnitName{"KiB", 0x1p10}, UnitName{"MiB", 0x1p20}, UnitName{"GiB", 0x1p30},
                                   UnitName{"TiB", 0x1p40}, UnitName{"k", 0x1p10},   UnitName{"M", 0x1p20},   UnitName{"G", 0x1p30}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Length of the decimal number that `text` begins with, 0 if none: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
size_t number_length(std::string_view text, bool allow_fraction, bool allow_exponent) {
  const auto digits_from = [&](size_t i) {
    while (i < text.size() && is_digit(text[i])) ++i;
    return i;
  };
  const size_t first = !text.empty() && text[0] == '-' ? 1 : 0;
  size_t end = digits_from(first);
  if (end == first || (text[first] == '0' && end > first + 1)) return 0;
  if (allow_fraction && end + 1 < text.size() && text[end] == '.' && is_digit(text[end + 1])) end = digits_from(end + 1);
  if (allow_exponent && end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    const size_t sign = end + 1 < text.size() && (text[end + 1] == '+' || text[end + 1] == '-') ? 1 : 0;
    const size_t exponent_end = digits_from(end + 1 + sign);
    if (exponent_end > end + 1 + sign) end = exponent_end;
  }
  return end;
}

std::optional<double> unit_factor(std::string_view suffix, Unit unit) {
  const auto find = [&](const auto& names) -> std::optional<double> {
    for (const UnitName& name : names)
      if (name.text == suffix) return name.factor;
    return std::nullopt;
  };
  if (unit == Unit::tokens) return find(kTokenUnits);
  return unit == Unit::bytes ? find(kByteUnits) : std::nullopt;
}

/// Whole tokens; of bytes no one counts a fraction.
std::optional<int64_t> scaled(std::string_view digits, double factor, Unit unit) {
  const std::optional<double> number = real_of(digits);
  if (!number) return std::nullopt;
  const double value = unit == Unit::bytes ? std::trunc(*number * factor) : *number * factor;
  return std::floor(value) == value && std::abs(value) < 0x1p53 ? std::optional(static_cast<int64_t>(value)) : std::nullopt;
}

/// The unit of which `suffix` is another capitalisation: "K" -> "k", "gb" -> "GB".
std::optional<std::string_view> intended_unit(std::string_view suffix, Unit unit) {
  const auto same = [&](std::string_view name) {
    return std::equal(name.begin(), name.end(), suffix.begin(), suffix.end(),
                      [](char a, char b) { return std::tolower(a) == std::tolower(b); });
  };
  if (unit == Unit::tokens)
    for (const UnitName& name : kTokenUnits)
      if (same(name.text)) return name.text;
  if (unit == Unit::bytes)
    for (const UnitName& name : kByteUnits)
      if (same(name.text)) return name.text;
  return std::nullopt;
}

std::optional<std::string> decimal_of_hex(std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return std::to_string(value);
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

}  // namespace

std::optional<int64_t> integer_of(std::string_view text, Unit unit) {
  const size_t whole = number_length(text, false, false);
  if (whole == text.size() && whole > 0) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
  }
  const size_t length = number_length(text, true, false);
  const std::optional<double> factor = length == 0 ? std::nullopt : unit_factor(text.substr(length), unit);
  return factor ? scaled(text.substr(0, length), *factor, unit) : std::nullopt;
}

int64_t size_of_flag(std::string_view text, Unit unit, std::string_view flag, std::string_view bare_unit) {
  const std::string with_unit = std::string(text).append(real_of(text) ? bare_unit : "");
  if (const auto size = integer_of(with_unit, unit); size && *size > 0) return *size;
  const bool tokens = unit == Unit::tokens;
  const std::string_view counted = !bare_unit.empty() ? bare_unit : tokens ? "tokens" : "bytes";
  const std::optional<std::string> meant = intended_number(text, unit, true);
  const std::string example = tokens ? "for example 4096 or 32k" : "for example 5GB or 2GiB";
  const bool helps = meant && *meant != text && integer_of(*meant, unit).value_or(0) > 0;
  fail(ErrorKind::usage,
       fmt::format("got '{}', expected a positive number of {}, or like {}", escape(text, 40), counted, tokens ? "32k" : "5GB or 2GiB"),
       std::string(flag), "write " + (helps ? *meant : example));
}

std::optional<double> real_of(std::string_view text) {
  if (text.empty() || number_length(text, true, true) != text.size()) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::optional<std::string> intended_number(std::string_view text, Unit unit, bool integer) {
  const auto reads = [&](const std::string& candidate) {
    return integer ? integer_of(candidate, unit).has_value() : real_of(candidate).has_value();
  };
  if (text.starts_with("0x") || text.starts_with("0X")) return decimal_of_hex(text.substr(2));
  std::string plain(text);
  std::erase(plain, '_');
  std::erase(plain, ',');
  if (plain.starts_with('+')) plain.erase(0, 1);
  while (plain.size() > 1 && plain[0] == '0' && is_digit(plain[1])) plain.erase(0, 1);
  if (plain.starts_with('.')) plain.insert(0, 1, '0');
  if (plain.ends_with('.')) plain.pop_back();
  if (reads(plain)) return plain;
  if (!integer) return std::nullopt;
  if (const auto real = real_of(plain); real && std::floor(*real) == *real && std::abs(*real) < 0x1p53)
    return std::to_string(static_cast<int64_t>(*real));
  const size_t digits = number_length(plain, true, false);
  const std::string_view suffix = trim(std::string_view(plain).substr(digits));
  if (const auto name = intended_unit(suffix, unit); digits > 0 && name) return plain.substr(0, digits).append(*name);
  return std::nullopt;
}

std::optional<std::string> intended_boolean(std::string_view text) {
  const std::string word = lower(text);
  for (const std::string_view yes : {"true", "yes", "on", "y", "t", "1"})
    if (word == yes) return "true";
  for (const std::string_view no : {"false", "no", "off", "n", "f", "0"})
    if (word == no) return "false";
  return std::nullopt;
}

std::string Integers::text() const {
  std::string text = fmt::format("an {}integer in [{}, {}]", even ? "even " : "", low, high);
  if (unit == Unit::tokens) text += ", or like 32k";
  if (unit == Unit::bytes) text += ", or like 5GB or 2GiB";
  return text;
}

bool Reals::holds(double value) const { return (open_low ? value > low : value >= low) && (open_high ? value < high : value <= high); }

std::string Reals::text() const {
  return fmt::format("a number in {}{:g}, {:g}{}", open_low ? '(' : '[', low, high, open_high ? ')' : ']');
}

}  // namespace longlora
