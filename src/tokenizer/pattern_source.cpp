#include <string>

#include "longlora/core/error.h"
#include "tokenizer/pattern.h"

namespace longlora {
namespace {

// White_Space and its complement as class members.
constexpr std::string_view kSpace =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x{00}-\\x{08}\\x{0E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}"
    "\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}";
// Alphabetic (letters, letter numbers and the letters in circles and squares), marks, digits, connectors: UTS #18's \w.
constexpr std::string_view kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
constexpr size_t kMaxPatternBytes = 16 * 1024;

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') escape();
      else if (c == '[') in_class_ ? refuse("[ inside a class") : open_class();
      else if (c == ']' && in_class_) close_class();
      else if (c == '&' && in_class_ && ahead(1) == '&') refuse("&& inside a class");
      else if (c == '(' && !in_class_) group();
      else if (c == '}' && !in_class_ && ahead(1) == '+') refuse("}+, which the engines read differently");
      else copy(1);
    }
    if (in_class_) refuse("a class without ]");
    return out_;
  }

 private:
  char ahead(size_t n) const { return at_ + n < pattern_.size() ? pattern_[at_ + n] : '\0'; }
  void copy(size_t n) { out_.append(pattern_.substr(at_, n)), at_ += n; }
  void put(std::string_view text, size_t consumed) { out_ += text, at_ += consumed; }

  [[noreturn]] void refuse(const std::string& construct) const {
    fail(ErrorKind::data, "pattern " + longlora::escape(pattern_) + " uses " + construct, std::string(where_),
         "use a tokenizer whose pattern avoids it");
  }

  void open_class() {
    in_class_ = true;
    copy(ahead(1) == '^' ? 2 : 1);
    if (ahead(0) == ']') refuse("] as the first member of a class");
  }
  void close_class() {
    in_class_ = false;
    copy(1);
  }

  void set(std::string_view members, bool negated) {
    if (in_class_) put(members, 2);
    else put((negated ? "[^" : "[") + std::string(members) + "]", 2);
  }

  void property() {
    const size_t close = pattern_.find('}', at_);
    if (ahead(2) != '{' || close == std::string_view::npos) refuse("\\p without {}");
    copy(close + 1 - at_);
  }

  void hexadecimal() {
    if (ahead(1) == 'u') {   // \uHHHH
      for (size_t i = 2; i < 6; ++i) {
        if (!std::isxdigit(static_cast<unsigned char>(ahead(i)))) refuse("\\u without four hexadecimal digits");
      }
      const std::string digits(pattern_.substr(at_ + 2, 4));
      put("\\x{" + digits + "}", 6);
      return;
    }
    copy(2);                 // \xHH and \x{H...} mean the same in both
  }

  void escape() {
    const char c = ahead(1);
    switch (c) {
      case 's': return set(kSpace, false);
      case 'S': return set(in_class_ ? kNotSpace : kSpace, true);
      case 'w': return set(kWord, false);
      case 'W': return in_class_ ? refuse("\\W inside a class") : set(kWord, true);
      case 'p': case 'P': return property();
      case 'x': case 'u': return hexadecimal();
      case 'v': return put("\\x{0B}", 2);
      case 'd': case 'D': case 'n': case 'r': case 't': case 'f': case 'a': case 'e': return copy(2);
      default: break;
    }
    if (c == '\0') refuse("a lone \\ at its end");
    if (std::isalnum(static_cast<unsigned char>(c))) refuse(std::string("\\") + c);
    copy(2);
  }

  void group() {
    if (ahead(1) == '*') refuse("(*");
    if (ahead(1) != '?') return copy(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"}) {
      if (pattern_.substr(at_).starts_with(known)) return copy(known.size());
    }
    refuse("a group of the kind " + std::string(pattern_.substr(at_, 4)));
  }

  std::string_view pattern_, where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string pcre2_source(std::string_view pattern, std::string_view where) {
  LONGLORA_CHECK(pattern.size() <= kMaxPatternBytes, data, "pattern has " + std::to_string(pattern.size()) + " bytes, limit 16384",
                 std::string(where), "use a tokenizer with a shorter pattern");
  return Translator(pattern, where).run();
}

}  // namespace longlora
