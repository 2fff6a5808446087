#include "tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <set>

#include "longlora/core/text.h"

namespace longlora {
namespace {

TEST(Unicode, EveryCodePointSurvivesItsEncoding) {
  size_t count = 0;
  for (char32_t c = 0; c <= kMaxCodePoint; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const CodePoint back = code_point_at(text, 0);
    ASSERT_EQ(back.value, c);
    ASSERT_EQ(back.bytes, text.size());
    ASSERT_EQ(lossy_utf8(text), text);
    ++count;
  }
  EXPECT_EQ(count, 0x110000u - 0x800u);
}

TEST(Unicode, WhiteSpaceHasTwentyFiveMembers) {
  std::set<char32_t> members;
  for (char32_t c = 0; c <= kMaxCodePoint; ++c) {
    if (is_white_space(c)) members.insert(c);
  }
  const std::set<char32_t> expected{0x9,    0xA,    0xB,    0xC,    0xD,    0x20,   0x85,   0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003,
                                    0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
  EXPECT_EQ(members, expected);
}

TEST(Unicode, EveryByteHasItsOwnPrintableCharacter) {
  std::set<char32_t> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = char_of_byte(static_cast<uint8_t>(byte));
    EXPECT_EQ(byte_of_char(c), byte);
    seen.insert(c);
  }
  EXPECT_EQ(seen.size(), 256u);
  EXPECT_EQ(char_of_byte(' '), 0x120u);  // the G with dot of GPT-2
  EXPECT_EQ(char_of_byte('\n'), 0x10Au);
  EXPECT_EQ(char_of_byte('A'), U'A');
  EXPECT_EQ(char_of_byte(0xAD), 0x143u);  // the soft hyphen comes last
  EXPECT_EQ(byte_of_char(U' '), -1);
  EXPECT_EQ(byte_of_char(0x144), -1);
}

TEST(Unicode, LossyReplacesEachMaximalPartOnce) {
  const std::string mark = "\xEF\xBF\xBD";
  const struct {
    std::string bytes, text;
  } table[] = {
      {"", ""},
      {"\x80", mark},
      {"a\xFFz", "a" + mark + "z"},
      {"\xE2\x96", mark},  // one part of a truncated character
      {"\xE2\x96z", mark + "z"},
      {"\xC0\xAF", mark + mark},                        // overlong: each byte alone
      {"\xED\xA0\x80", mark + mark + mark},             // surrogate
      {"\xF4\x90\x80\x80", mark + mark + mark + mark},  // above U+10FFFF
      {"\xF0\x9F\xA6", mark},
      {"\xF0\x9F\xA6\x99", "\xF0\x9F\xA6\x99"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", mark + mark + mark + mark + "A"},  // Unicode 15, table 3-11
  };
  for (const auto& row : table) EXPECT_EQ(lossy_utf8(row.bytes), row.text);
}

TEST(Unicode, ReplaceAllGoesLeftToRight) {
  EXPECT_EQ(replace_all("aaa", "aa", "b"), "ba");
  EXPECT_EQ(replace_all(" a  b ", " ", kMetaspace), "▁a▁▁b▁");
  EXPECT_EQ(replace_all("", "x", "y"), "");
}

}  // namespace
}  // namespace longlora
