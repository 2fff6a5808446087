#include "formats/json_scanner.h"

#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

constexpr std::string_view kDo = "the file is damaged or was not written as JSON; download or write it again";

}  // namespace

JsonScanner::JsonScanner(std::string_view text, std::string_view source, uint64_t first_byte, size_t max_depth)
    : text_(text), source_(source), first_byte_(first_byte), max_depth_(max_depth) {
  if (const auto bad = invalid_utf8_at(text)) {
    position_ = *bad;
    refuse("valid UTF-8");
  }
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    position_ = nul;
    refuse("JSON text without NUL bytes");
  }
}

void JsonScanner::refuse(std::string_view expected) const {
  const std::string found = position_ < text_.size() ? fmt::format("'{}'", escape(text_.substr(position_, 12), 40)) : "the end of the text";
  fail(ErrorKind::data, fmt::format("expected {}, found {}", expected, found), fmt::format("{}: byte {}", source_, byte()),
       std::string(kDo));
}

void JsonScanner::skip_space() {
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    ++position_;
  }
}

void JsonScanner::open(char bracket) {
  skip_space();
  if (peek() != bracket) refuse(fmt::format("'{}'", bracket));
  if (depth_ == max_depth_) refuse(fmt::format("nesting of at most {} levels", max_depth_));
  ++depth_;
  ++position_;
  first_member_ = true;
}

bool JsonScanner::next(char closing_bracket) {
  skip_space();
  if (peek() == closing_bracket) {
    ++position_;
    --depth_;
    first_member_ = false;
    return false;
  }
  if (!first_member_) {
    if (peek() != ',') refuse(fmt::format("',' or '{}'", closing_bracket));
    ++position_;
    skip_space();
    if (peek() == closing_bracket) refuse("a value after ','");
  }
  first_member_ = false;
  return true;
}

uint32_t JsonScanner::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++position_) {
    const char c = peek();
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) refuse("four hexadecimal digits");
    value = value * 16 + static_cast<uint32_t>(digit);
  }
  return value;
}

uint32_t JsonScanner::escaped_code_point() {
  const uint32_t high = hex4();
  if (high >= 0xdc00 && high < 0xe000) refuse("a high surrogate before a low one");
  if (high < 0xd800 || high >= 0xe000) return high;
  if (text_.substr(position_, 2) != "\\u") refuse("a low surrogate after a high one");
  position_ += 2;
  const uint32_t low = hex4();
  if (low < 0xdc00 || low >= 0xe000) refuse("a low surrogate after a high one");
  return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

std::string JsonScanner::string(size_t max_bytes, std::string_view meaning) {
  skip_space();
  if (peek() != '"') refuse(fmt::format("{} (a string)", meaning));
  ++position_;
  std::string out;
  while (true) {
    if (position_ == text_.size()) refuse("a closing quote");
    const unsigned char c = static_cast<unsigned char>(text_[position_]);
    if (c == '"') break;
    if (c < 0x20) refuse("no control character inside a string");
    if (c != '\\') {
      out += static_cast<char>(c);
      ++position_;
    } else {
      ++position_;
      const char kind = peek();
      constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
      if (kind == 'u') {
        ++position_;
        append_utf8(out, escaped_code_point());
      } else if (const size_t at = kNames.find(kind); kind != '\0' && at != std::string_view::npos) {
        out += kValues[at];
        ++position_;
      } else {
        refuse("an escape sequence of JSON");
      }
    }
    if (out.size() > max_bytes) refuse(fmt::format("{} of at most {} bytes", meaning, max_bytes));
  }
  ++position_;
  return out;
}

std::string JsonScanner::key(size_t max_bytes, std::string_view meaning) {
  std::string name = string(max_bytes, meaning);
  skip_space();
  if (peek() != ':') refuse("':'");
  ++position_;
  return name;
}

uint64_t JsonScanner::unsigned_integer(std::string_view meaning) {
  skip_space();
  const size_t start = position_;
  const auto refuse_number = [&] {
    position_ = start;
    refuse(fmt::format("{} (a plain decimal integer of at most 2^63-1)", meaning));
  };
  uint64_t value = 0;
  while (peek() >= '0' && peek() <= '9') {
    const uint64_t digit = static_cast<uint64_t>(peek() - '0');
    if (value > (uint64_t{INT64_MAX} - digit) / 10) refuse_number();
    value = value * 10 + digit;
    ++position_;
  }
  const size_t digits = position_ - start;
  const char after = peek();
  if (digits == 0 || (digits > 1 && text_[start] == '0') || after == '.' || after == 'e' || after == 'E') refuse_number();
  return value;
}

void JsonScanner::skip_scalar() {
  const size_t start = position_;
  while (position_ < text_.size() && std::string_view(",]} \t\r\n").find(text_[position_]) == std::string_view::npos) ++position_;
  const std::string_view word = text_.substr(start, position_ - start);
  if (word == "true" || word == "false" || word == "null") return;
  // number: -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?
  size_t i = 0;
  const auto digits = [&] {
    const size_t first = i;
    while (i < word.size() && word[i] >= '0' && word[i] <= '9') ++i;
    return i - first;
  };
  if (i < word.size() && word[i] == '-') ++i;
  const bool zero = i < word.size() && word[i] == '0';
  const size_t whole = digits();
  bool good = whole > 0 && !(zero && whole > 1);
  if (good && i < word.size() && word[i] == '.') {
    ++i;
    good = digits() > 0;
  }
  if (good && i < word.size() && (word[i] == 'e' || word[i] == 'E')) {
    ++i;
    if (i < word.size() && (word[i] == '+' || word[i] == '-')) ++i;
    good = digits() > 0;
  }
  if (good && i == word.size()) return;
  position_ = start;
  refuse("a JSON value");
}

std::string_view JsonScanner::any_value() {
  skip_space();
  const size_t start = position_;
  const char c = peek();
  if (c == '{') {
    open('{');
    while (next('}')) {
      key(text_.size(), "a key");
      any_value();
    }
  } else if (c == '[') {
    open('[');
    while (next(']')) any_value();
  } else if (c == '"') {
    string(text_.size(), "a string");
  } else {
    skip_scalar();
  }
  return text_.substr(start, position_ - start);
}

void JsonScanner::end() {
  skip_space();
  if (position_ != text_.size()) refuse("nothing but white space after the object");
}

}  // namespace longlora
