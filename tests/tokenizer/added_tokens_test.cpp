#include "tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <random>

namespace longlora {
namespace {

/// "[text]" for tokens, plain text for the rest; checks that the parts cover the text.
std::string show(const AddedTokenFinder& finder, std::string_view text, SpecialText special = SpecialText::parsed) {
  std::string out;
  size_t done = 0;
  for (const TextPart& part : finder.split(text, special)) {
    EXPECT_EQ(part.begin, done);
    EXPECT_LT(part.begin, part.end);
    done = part.end;
    const std::string piece(text.substr(part.begin, part.end - part.begin));
    out += part.token ? "[" + piece + "]" : piece;
  }
  EXPECT_EQ(done, text.size());
  return out;
}

AddedTokenFinder finder_of(std::vector<AddedToken> tokens) {
  std::vector<AddedTokenFinder::Needle> needles;
  for (AddedToken& token : tokens) needles.push_back({token.content, token});
  return AddedTokenFinder(std::move(needles));
}

TEST(AddedTokens, LeftmostThenLongest) {
  const auto finder = finder_of({{0, "ab"}, {1, "abcd"}, {2, "bc"}, {3, "d"}});
  EXPECT_EQ(show(finder, "abcd"), "[abcd]");
  EXPECT_EQ(show(finder, "abce"), "[ab]ce");
  EXPECT_EQ(show(finder, "xbcd"), "x[bc][d]");
  EXPECT_EQ(show(finder, "abab"), "[ab][ab]");
  EXPECT_EQ(show(finder, ""), "");
  EXPECT_EQ(show(AddedTokenFinder(), "abc"), "abc");
}

TEST(AddedTokens, EqualsBruteForceOnRandomStrings) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    std::vector<AddedToken> tokens;
    for (int i = 0; i < 6; ++i) {
      std::string content;
      for (size_t n = 1 + random() % 4; n > 0; --n) content += static_cast<char>('a' + random() % 2);
      tokens.push_back({i, content});
    }
    std::string text, expected;
    for (int i = 0; i < 30; ++i) text += static_cast<char>('a' + random() % 3);
    for (size_t at = 0; at < text.size();) {
      size_t longest = 0;
      for (const AddedToken& token : tokens) {
        if (text.compare(at, token.content.size(), token.content) == 0) longest = std::max(longest, token.content.size());
      }
      expected += longest ? "[" + text.substr(at, longest) + "]" : text.substr(at, 1);
      at += std::max<size_t>(longest, 1);
    }
    ASSERT_EQ(show(finder_of(tokens), text), expected);
  }
}

TEST(AddedTokens, SpecialTextIsPlainUnlessParsed) {
  const auto finder = finder_of({{0, "</s>", true}, {1, "</s", false}, {2, "x", false}});
  EXPECT_EQ(show(finder, "a</s>x", SpecialText::parsed), "a[</s>][x]");
  EXPECT_EQ(show(finder, "a</s>x", SpecialText::plain), "a</s>[x]");   // skipped whole: its parts are not searched either
  EXPECT_EQ(show(finder, "a</sx", SpecialText::plain), "a[</s][x]");
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const auto finder = finder_of({{.id = 0, .content = "na", .single_word = true}});
  EXPECT_EQ(show(finder, "na na, bana naa _na \u00e9na na"), "[na] [na], bana naa _na \u00e9na [na]");
  EXPECT_EQ(show(finder, "\u65e5na"), "\u65e5na");
  EXPECT_EQ(show(finder, "\u20acna!"), "\u20ac[na]!");
}

TEST(AddedTokens, StripTakesWhiteSpaceAlong) {
  EXPECT_EQ(show(finder_of({{.id = 0, .content = "T", .lstrip = true}}), "a \u3000\nT b"), "a[ \u3000\nT] b");
  EXPECT_EQ(show(finder_of({{.id = 0, .content = "T", .rstrip = true}}), "a T \u00a0b"), "a [T \u00a0]b");
  const auto both = finder_of({{.id = 0, .content = "T", .lstrip = true, .rstrip = true}});
  EXPECT_EQ(show(both, " T  T "), "[ T  ][T ]");   // white space that a token has taken is taken
}

}  // namespace
}  // namespace longlora
