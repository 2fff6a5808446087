#include "longlora/core/text.h"

#include <gtest/gtest.h>

#include <string>

namespace longlora {
namespace {

TEST(Utf8, TortureTable) {
  const struct { std::string text; std::optional<size_t> invalid_at;
  } cases[] = {{"", {}},
               {"plain", {}},
               {"\x7f", {}},
               {"\xc2\x80", {}},
               {"\xdf\xbf", {}},
               {"\xe0\xa0\x80", {}},
               {"\xed\x9f\xbf", {}},
               {"\xee\x80\x80", {}},
               {"\xef\xbf\xbf", {}},
               {"\xf0\x90\x80\x80", {}},
               {"\xf4\x8f\xbf\xbf", {}},
               {"a\x80", 1},
               {"\xbf", 0},
               {"\xc0\x80", 0},
               {"\xc1\xbf", 0},
               {"\xc2", 0},
               {"\xc2\x41", 0},
               {"\xe0\x80\x80", 0},
               {"\xe0\x9f\xbf", 0},
               {"\xe1\x80", 0},
               {"\xed\xa0\x80", 0},
               {"\xed\xbf\xbf", 0},
               {"\xf0\x80\x80\x80", 0},
               {"\xf0\x8f\xbf\xbf", 0},
               {"\xf4\x90\x80\x80", 0},
               {"\xf5\x80\x80\x80", 0},
               {"\xff", 0},
               {"\xfe", 0},
               {"ok\xf0\x9f\xa6", 2},
               {"ok\xf0\x9f\xa6\x99!", {}},
               {"\xf8\x88\x80\x80\x80", 0}};
  for (const auto& test : cases) EXPECT_EQ(invalid_utf8_at(test.text), test.invalid_at) << testing::PrintToString(test.text);
}

/// A code point encoded by the table of the standard.
std::string encoded(uint32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  return {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)), static_cast<char>(0x80 | (c >> 6 & 63)),
          static_cast<char>(0x80 | (c & 63))};
}

TEST(Utf8, ExactlyTheScalarValuesAreValid) {
  for (uint32_t c = 0; c < 0x120000; c += c < 0x12000 ? 1 : 61) {
    const bool scalar = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
    ASSERT_EQ(!invalid_utf8_at(encoded(c)).has_value(), scalar) << std::hex << c;
  }
}

TEST(EditDistance, CountsSingleEditsAndTranspositions) {
  const struct { const char *a, *b; size_t distance; } cases[] = {{"", "", 0},          {"", "abc", 3},        {"abc", "abc", 0},
                                                                  {"abc", "acb", 1},    {"ca", "abc", 3},      {"kitten", "sitting", 3},
                                                                  {"group", "gruop", 1}, {"seed", "sed", 1},   {"a", "b", 1}};
  for (const auto& test : cases) {
    EXPECT_EQ(edit_distance(test.a, test.b), test.distance) << test.a << " " << test.b;
    EXPECT_EQ(edit_distance(test.b, test.a), test.distance) << test.b << " " << test.a;
  }
}

TEST(Nearest, TakesTheLeastDistanceWithinTheLimit) {
  const std::vector<std::string> names = {"seed", "steps", "epochs"};
  EXPECT_EQ(nearest("sed", names), "seed");
  EXPECT_EQ(nearest("stpes", names), "steps");
  EXPECT_EQ(nearest("unrelated", names), std::nullopt);
  EXPECT_EQ(nearest("sed", names, 0), std::nullopt);
}

TEST(Human, SizesAndCounts) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(2040109466), "1.9 GiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(139'700'000), "139.7 M");
}

TEST(Split, KeepsEmptyPartsAndTrimTakesWhiteSpace) {
  EXPECT_EQ(split("a,,b", ','), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(split("", ','), std::vector<std::string>{""});
  EXPECT_EQ(trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
}

}  // namespace
}  // namespace longlora
