#pragma once
// UTF-8 as this module needs it: code points of valid text, White_Space, and the printable alphabet of byte-level vocabularies.

#include <cstdint>
#include <string>
#include <string_view>

namespace longlora {

inline constexpr char32_t kMaxCodePoint = 0x10FFFF;
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, sentencepiece's visible space

struct CodePoint {
  char32_t value;
  uint32_t bytes;
};

/// The code point that begins at text[at]. The text must be valid UTF-8 and `at` one of its boundaries.
inline CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {char32_t(lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu), 2};
  if (lead < 0xF0) return {char32_t(lead & 0x0Fu) << 12 | char32_t(byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu), 3};
  return {char32_t(lead & 0x07u) << 18 | char32_t(byte(1) & 0x3Fu) << 12 | char32_t(byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu), 4};
}

/// Unicode property White_Space (25 code points, stable since Unicode 6.3).
bool is_white_space(char32_t);

/// Bytes as text: every maximal part that is no UTF-8 becomes one U+FFFD (Unicode 15, section 3.9, "substitution of maximal subparts").
std::string lossy_utf8(std::string_view bytes);

/// GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100, U+0101, ... in order.
char32_t char_of_byte(uint8_t);
/// Inverse; -1 when the code point is not in the alphabet.
int byte_of_char(char32_t);

/// All non-overlapping occurrences of `from` (not empty), left to right, replaced.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace longlora
