#include "tokenizer/unicode.h"

#include <array>

#include "longlora/core/text.h"

namespace longlora {

bool is_white_space(char32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || c == 0x20;
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

namespace {

/// Length of the longest prefix of a well-formed sequence at `at`; `complete` tells whether it is a whole one.
size_t well_formed_prefix(std::string_view s, size_t at, bool& complete) {
  const uint8_t lead = static_cast<uint8_t>(s[at]);
  complete = lead < 0x80;
  if (complete) return 1;
  const size_t need = lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
  size_t have = 1;
  for (; have < need && at + have < s.size(); ++have) {
    const uint8_t byte = static_cast<uint8_t>(s[at + have]);
    uint8_t low = 0x80, high = 0xBF;
    if (have == 1) {  // the second byte excludes overlong forms, surrogates and numbers above U+10FFFF
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte < low || byte > high) break;
  }
  complete = have == need;
  return have;
}

struct ByteAlphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, 0x180> bytes{};
  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      chars[b] = printable ? b : next++;
      bytes[chars[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet table;
  return table;
}

}  // namespace

std::string lossy_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    bool complete = false;
    const size_t length = well_formed_prefix(bytes, at, complete);
    if (complete)
      out.append(bytes.substr(at, length));
    else
      append_utf8(out, 0xFFFD);
    at += length;
  }
  return out;
}

char32_t char_of_byte(uint8_t byte) { return alphabet().chars[byte]; }

int byte_of_char(char32_t c) { return c < alphabet().bytes.size() ? alphabet().bytes[c] : -1; }

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t at = 0;
  for (size_t hit; (hit = text.find(from, at)) != std::string_view::npos; at = hit + from.size()) {
    out.append(text.substr(at, hit - at)).append(to);
  }
  return out.append(text.substr(at));
}

}  // namespace longlora
