#include "tokenizer/pattern.h"

#include <gtest/gtest.h>

#include <vector>

#include "longlora/core/error.h"
#include "support/error_of.h"

namespace longlora {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const Pattern compiled(pattern, "test");
  PatternMatcher matcher(compiled);
  matcher.begin(text);
  std::vector<std::string> out;
  while (const auto match = matcher.next()) out.emplace_back(text.substr(match->first, match->second - match->first));
  return out;
}

using Texts = std::vector<std::string>;

TEST(Pattern, WhiteSpaceIsUnicodes) {
  for (const char* space :
       {"\t", "\v", "\f", " ", "\u0085", "\u00A0", "\u1680", "\u2000", "\u200A", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"}) {
    EXPECT_EQ(matches("\\s", space).size(), 1u) << escape(space);
    EXPECT_EQ(matches("[\\s]", space).size(), 1u);
    EXPECT_EQ(matches("\\S", space).size(), 0u);
    EXPECT_EQ(matches("[^\\S]", space).size(), 1u);
    EXPECT_EQ(matches("[\\S]", space).size(), 0u);
    EXPECT_EQ(matches("[^\\s]", space).size(), 0u);
  }
  for (const char* other : {"\u200B", "\u180E", "\u2060", "\uFEFF", "a", "\u0084", "\u0086", "\U0001F999", "\U0010FFFF"}) {
    EXPECT_EQ(matches("\\s", other).size(), 0u) << escape(other);
    EXPECT_EQ(matches("\\S", other).size(), 1u);
    EXPECT_EQ(matches("[\\S]", other).size(), 1u);
  }
}

TEST(Pattern, WordCharactersHoldMarksButNoSymbols) {
  for (const char* word : {"a", "_", "7", "\u0301", "\u24B6", "\u203F", "\u2160", "\u0E31"})
    EXPECT_EQ(matches("\\w", word).size(), 1u) << word;
  for (const char* other : {"-", " ", "\u00B2", "\u20AC", "\U0001F999"}) EXPECT_EQ(matches("\\w", other).size(), 0u) << other;
  EXPECT_EQ(matches("\\W", "a-b"), Texts{"-"});
}

TEST(Pattern, LooksAheadAndIgnoresCase) {
  EXPECT_EQ(matches("\\s+(?!\\S)|\\s+", "a   b  "), (Texts{"  ", " ", "  "}));
  EXPECT_EQ(matches("(?i:'s|'ll)", "it's WE'LL I'S"), (Texts{"'s", "'LL", "'S"}));
  EXPECT_EQ(matches("\\p{N}{1,3}", "1234567"), (Texts{"123", "456", "7"}));
  EXPECT_EQ(matches("^a$", "a\na"), (Texts{"a", "a"}));   // lines, as in the reference
}

TEST(Pattern, EmptyMatchesNeverRepeat) {
  EXPECT_EQ(matches("x*", "axxb"), (Texts{"", "xx", ""}));
  EXPECT_EQ(matches("", "\u00e9").size(), 2u);
  EXPECT_EQ(matches("a", "").size(), 0u);
}

TEST(Pattern, ConstructsOfOneEngineOnlyAreNamed) {
  const struct { const char* pattern; const char* named; } table[] = {
      {"\\bword", "\\b"},        {"\\h", "\\h"},         {"\\R", "\\R"},
      {"\\K", "\\K"},            {"\\G", "\\G"},         {"(a)\\1", "\\1"},
      {"[a[bc]]", "[ inside a class"},                   {"[[:alpha:]]", "[ inside a class"},
      {"[a-z&&[^b]]", "&& inside a class"},              {"[]a]", "] as the first member"},
      {"(?m:a)", "(?m:"},        {"(?<name>a)", "(?<n"}, {"(*UTF)a", "(*"},
      {"a{1,2}+", "}+"},         {"[\\W]", "\\W inside a class"},
      {"a\\", "a lone \\"},      {"[a", "a class without ]"},
      {"\\pL", "\\p without {}"}, {"\\u12", "\\u without four"},
  };
  for (const auto& row : table) {
    const std::string error = error_of([&] { Pattern(row.pattern, "here"); });
    EXPECT_NE(error.find(row.named), std::string::npos) << row.pattern << ": " << error;
    EXPECT_NE(error.find("(here)"), std::string::npos) << error;
  }
}

TEST(Pattern, WhatDoesNotCompileIsRefused) {
  for (const char* pattern : {"(a", "a)", "*", "\\p{Nonsense}", "[z-a]", "(?<=a*)b"}) {
    EXPECT_NE(error_of([&] { Pattern(pattern, "here"); }).find("does not compile"), std::string::npos) << pattern;
  }
  EXPECT_NE(error_of([&] { Pattern(std::string(20'000, 'a'), "here"); }).find("20000 bytes"), std::string::npos);
}

TEST(Pattern, BacktrackingWithoutBoundEndsInAnError) {
  const std::string text = std::string(40, 'a') + "!";
  EXPECT_NE(error_of([&] { matches("(a|a)+$", text); }).find("gave up"), std::string::npos);
}

TEST(Pattern, LongRunsAreNoProblem) {
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(matches("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", spaces + "x").size(), 2u);
  EXPECT_EQ(matches("\\p{N}", std::string(3'000'000, 'x')).size(), 0u);
}

}  // namespace
}  // namespace longlora
