#include "data/json_record.h"

#include <fmt/format.h>

#include <unordered_set>

#include "longlora/core/error.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

class Scanner {
 public:
  Scanner(std::string_view text, std::string_view field) : text_(text), field_(field) {}

  JsonRecord record() {
    skip_space();
    if (peek() != '{') bad(fmt::format("expected an object ('{{'), got {}", shown()));
    object(1, true);
    skip_space();
    if (at_ < text_.size()) bad(fmt::format("expected the end of the line after the object, got {}", shown()));
    return std::move(result_);
  }

 private:
  [[noreturn]] void bad(std::string what) const { bad_at(at_, std::move(what)); }
  [[noreturn]] void bad_at(size_t byte, std::string what) const { throw RecordProblem{byte, std::move(what)}; }
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  std::string shown() const { return at_ < text_.size() ? "'" + escape(text_.substr(at_, 1)) + "'" : "the end of the line"; }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' || text_[at_] == '\n')) ++at_;
  }
  void expect(char wanted) {
    skip_space();
    if (peek() != wanted) bad(fmt::format("expected '{}', got {}", wanted, shown()));
    ++at_;
  }

  void object(int depth, bool top) {
    check_depth(depth);
    ++at_;
    std::unordered_set<std::string> keys;
    skip_space();
    if (peek() == '}') {
      ++at_;
      return;
    }
    while (true) {
      skip_space();
      const size_t key_at = at_;
      if (peek() != '"') bad(fmt::format("expected a key in quotes, got {}", shown()));
      std::string key = string();
      const auto [place, is_new] = keys.insert(std::move(key));
      if (!is_new) bad_at(key_at, fmt::format("duplicate key '{}'", escape(*place, 40)));
      expect(':');
      skip_space();
      top ? member(*place) : value(depth);
      skip_space();
      if (peek() == '}') {
        ++at_;
        return;
      }
      if (peek() != ',') bad(fmt::format("expected ',' or '}}', got {}", shown()));
      ++at_;
    }
  }

  void member(const std::string& key) {
    if (key == "instruction") result_.has_instruction = true;
    if (key == "conversations") result_.has_conversations = true;
    if (key == "messages") result_.has_messages = true;
    if (key != field_) return value(1);
    if (peek() != '"') bad(fmt::format("expected a string in field '{}', got {}", escape(field_, 40), kind()));
    result_.text = string();
    result_.has_field = true;
  }

  std::string_view kind() const {
    const int c = peek();
    if (c == '{') return "an object";
    if (c == '[') return "an array";
    if (c == 't' || c == 'f') return "true or false";
    if (c == 'n') return "null";
    return c == '-' || (c >= '0' && c <= '9') ? "a number" : "no value";
  }

  void array(int depth) {
    check_depth(depth);
    ++at_;
    skip_space();
    if (peek() == ']') {
      ++at_;
      return;
    }
    while (true) {
      skip_space();
      value(depth);
      skip_space();
      if (peek() == ']') {
        ++at_;
        return;
      }
      if (peek() != ',') bad(fmt::format("expected ',' or ']', got {}", shown()));
      ++at_;
    }
  }

  void check_depth(int depth) const {
    if (depth > kMaxRecordDepth) bad(fmt::format("nested deeper than {} levels", kMaxRecordDepth));
  }

  void value(int depth) {
    switch (peek()) {
      case '{':
        return object(depth + 1, false);
      case '[':
        return array(depth + 1);
      case '"':
        string();
        return;
      case 't':
        return literal("true");
      case 'f':
        return literal("false");
      case 'n':
        return literal("null");
      default:
        return number();
    }
  }

  void literal(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) bad(fmt::format("expected a value, got {}", shown()));
    at_ += word.size();
  }

  bool is_digit() const { return peek() >= '0' && peek() <= '9'; }
  void digits() {
    if (!is_digit()) bad(fmt::format("expected a digit, got {}", shown()));
    while (is_digit()) ++at_;
  }
  void number() {
    const size_t begin = at_;
    if (peek() == '-') ++at_;
    if (begin == at_ && !is_digit()) bad(fmt::format("expected a value, got {}", shown()));
    if (peek() == '0')
      ++at_;
    else
      digits();
    if (peek() == '.') {
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
  }

  std::string string() {
    std::string out;
    ++at_;
    while (true) {
      size_t run = at_;
      while (run < text_.size() && text_[run] != '"' && text_[run] != '\\' && static_cast<unsigned char>(text_[run]) >= 0x20) ++run;
      out.append(text_, at_, run - at_);
      at_ = run;
      if (at_ == text_.size()) bad("the string does not end before the line does");
      if (text_[at_] == '"') {
        ++at_;
        return out;
      }
      if (text_[at_] != '\\') bad(fmt::format("control character {} must be escaped in a string", shown()));
      escape_sequence(out);
    }
  }

  void escape_sequence(std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const size_t begin = at_++;
    const int name = peek();
    if (name == 'u') return append_utf8(out, code_point(begin));
    const size_t index = name < 0 ? std::string_view::npos : kNames.find(static_cast<char>(name));
    if (index == std::string_view::npos) bad_at(begin, "unknown escape sequence");
    out += kValues[index];
    ++at_;
  }

  /// `begin` is the place of the backslash; `at_` stands on 'u'.
  uint32_t code_point(size_t begin) {
    const uint32_t first = four_hex(begin);
    if (first == 0) bad_at(begin, "NUL character (\\u0000) in a string");
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || text_.substr(at_, 2) != "\\u") bad_at(begin, "lone surrogate escape");
    const size_t second_at = at_++;
    const uint32_t second = four_hex(second_at);
    if (second < 0xDC00 || second > 0xDFFF) bad_at(begin, "lone surrogate escape");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  uint32_t four_hex(size_t begin) {
    uint32_t code = 0;
    ++at_;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) bad_at(begin, "\\u needs four hexadecimal digits");
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return code;
  }

  std::string_view text_, field_;
  size_t at_ = 0;
  JsonRecord result_;
};

}  // namespace

JsonRecord scan_json_record(std::string_view line, std::string_view field) { return Scanner(line, field).record(); }

}  // namespace longlora
