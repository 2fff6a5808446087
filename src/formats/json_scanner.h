#pragma once
// Pull scanner over the JSON text of weight files: safetensors headers and shard indexes.
//
// Goals: memory bounded by what the caller keeps (a 100 MB header never becomes a tree), places as bytes of the file, refusal of
// everything that two readers might understand differently. Non-goals: numbers with fractions, values as objects.

#include <cstdint>
#include <string>
#include <string_view>

namespace longlora {

class JsonScanner {
 public:
  /// `text` must outlive the scanner. `first_byte` is the file offset of text[0]; `max_depth` counts nested objects and arrays.
  /// Invalid UTF-8 or a NUL byte anywhere in the text: ErrorKind::data naming the byte.
  JsonScanner(std::string_view text, std::string_view source, uint64_t first_byte, size_t max_depth);

  void open(char bracket);  // '{' or '['
  /// True when another member follows, false when the bracket closed. Call before each member.
  bool next(char closing_bracket);
  /// A string of at most `max_bytes` bytes after unescaping; `meaning` names it in messages.
  std::string string(size_t max_bytes, std::string_view meaning);
  /// A key and its colon.
  std::string key(size_t max_bytes, std::string_view meaning);
  /// Plain decimal without sign, fraction, exponent or leading zero, at most 2^63-1.
  uint64_t unsigned_integer(std::string_view meaning);
  /// Skips any value and returns its text.
  std::string_view any_value();
  /// Only white space may follow.
  void end();

  [[noreturn]] void refuse(std::string_view expected) const;  // at the current byte
  uint64_t byte() const { return first_byte_ + position_; }

 private:
  void skip_space();
  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
  void skip_scalar();
  uint32_t hex4();
  uint32_t escaped_code_point();

  std::string_view text_;
  std::string source_;
  uint64_t first_byte_;
  size_t max_depth_;
  size_t position_ = 0;
  size_t depth_ = 0;
  bool first_member_ = false;
};

}  // namespace longlora
