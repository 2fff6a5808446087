// Mutants of every key, generated from the field table: all refused, at the right place, with the right suggestion.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "config/codec.h"
#include "config/key_index.h"
#include "support/temp_dir.h"
#include "valid_text.h"

namespace longlora {
namespace {

/// Texts that no key of this type may take.
std::vector<std::string> wrong_values(const int64_t*, const Integers& allowed) {
  std::vector<std::string> texts = {"abc", "true", "1.5", "010", "0x10", "[1]", "{a: 1}", "'7'", ".inf", "1_0", "+5", "", "3 4", "~x",
                                    "99999999999999999999", std::to_string(allowed.low - 1), "-7", "5XB"};
  if (allowed.high < INT64_MAX) texts.push_back(std::to_string(allowed.high + 1));
  if (allowed.unit == Unit::none) texts.insert(texts.end(), {"4k", "5GB"});
  if (allowed.unit == Unit::tokens) texts.insert(texts.end(), {"4K", "5GB", "0.3k"});
  if (allowed.even) texts.push_back("1001");
  return texts;
}
std::vector<std::string> wrong_values(const double*, const Reals& allowed) {
  std::vector<std::string> texts = {"abc", "true", "01.5", ".5", "5.", "1e", "e5", "[1.0]", "{a: 1}", "'0.5'", ".inf", ".nan", "nan",
                                    "1e999", "1e-999", "", "0x1p-3", "0.5x"};
  texts.push_back(fmt::format("{}", allowed.low - 1));
  texts.push_back(fmt::format("{}", allowed.high * 2 + 1));
  if (allowed.open_low) texts.push_back(fmt::format("{}", allowed.low));
  if (allowed.open_high) texts.push_back(fmt::format("{}", allowed.high));
  return texts;
}
std::vector<std::string> wrong_values(const bool*, const Words&) {
  return {"yes", "no", "on", "off", "True", "FALSE", "1", "0", "'true'", "[true]", "{a: true}", "", "maybe", "y"};
}
std::vector<std::string> wrong_values(const std::string*, const Text& allowed) {
  std::vector<std::string> texts = {"[a]", "{a: b}", "", "~", "null"};
  if (allowed.required) texts.emplace_back("''");
  if (!allowed.choices.empty()) texts.insert(texts.end(), {"nonsense", "'x'", "0"});
  return texts;
}
template <class E> requires std::is_enum_v<E>
std::vector<std::string> wrong_values(const E*, const Words&) {
  std::vector<std::string> texts = {"nonsense", "[a]", "{a: b}", "", "1", "~"};
  for (const auto& name : names_of(E{})) texts.push_back(fmt::format("{}x", name.text));
  return texts;
}
std::vector<std::string> wrong_values(const std::vector<DataEntry>*, const Entries&) {
  return {"books.txt",
          "[books.txt]",
          "{path: a}",
          "[{}]",
          "[{format: text}]",
          "[{path: a, weigth: 1}]",
          "[{path: a, weight: 0}]",
          "[{path: [a]}]",
          "[{path: a, format: txt}]",
          "[{path: a, split: line}]",
          "",
          "[{path: a, path: b}]",
          "[{path: a}, {path: b, weight: 1}]"};
}
template <class T, class A>
std::vector<std::string> wrong_values(const std::optional<T>*, const A& allowed) {
  std::vector<std::string> texts = wrong_values(static_cast<const T*>(nullptr), allowed);
  std::erase_if(texts, [](const std::string& text) { return text.empty() || text == "~" || text == "null"; });   // mean "not set"
  return texts;
}
template <class T, class A> requires(!std::is_same_v<T, DataEntry>)
std::vector<std::string> wrong_values(const std::vector<T>*, const A& allowed) {
  std::vector<std::string> texts = {"abc", "{a: 1}", "", "1"};
  for (const std::string& item : wrong_values(static_cast<const T*>(nullptr), allowed)) texts.push_back("[" + item + "]");
  std::erase(texts, "[]");
  if constexpr (std::is_same_v<A, Reals>) texts.insert(texts.end(), {"[0.9]", "[0.9, 0.9, 0.9]"});
  return texts;
}

ConfigSources sources_with(const TempDir& dir, const std::string& line) { return {dir.write("mutant.yaml", line + "\n"), {}, {}}; }

TEST(Mutants, WrongTypesAndRangesOfEveryKeyAreRefusedWithPlace) {
  const TempDir dir;
  size_t mutants = 0;
  const TrainConfig config;
  visit_fields([&](const Row& row, const auto& member, const auto& allowed) {
    for (const std::string& value : wrong_values(&member, allowed)) {
      const std::string text = nested(row.key, value);
      const std::vector<Problem> problems = validate_config(sources_with(dir, text));
      // required keys are missing as well: one problem must stand at line 1 and be about this key, or be a syntax error there
      const bool named = std::any_of(problems.begin(), problems.end(), [&](const Problem& p) {
        return p.line == 1 && p.column > 1 && (p.key.empty() || p.key.starts_with(row.key)) && !p.message.empty() &&
               p.message.find("required") == std::string::npos;
      });
      EXPECT_TRUE(named) << text;
      ++mutants;
    }
  }, config);
  EXPECT_GT(mutants, 900u);
}

std::string edited(const std::string& word, std::mt19937& random) {
  const auto letter = [&] { return static_cast<char>('a' + random() % 26); };
  std::string text = word;
  const size_t at = random() % text.size();
  switch (random() % 4) {
    case 0: text[at] = letter(); break;
    case 1: text.insert(text.begin() + static_cast<std::ptrdiff_t>(at), letter()); break;
    case 2: text.erase(at, 1); break;
    default: if (at + 1 < text.size()) std::swap(text[at], text[at + 1]); else text += letter();
  }
  return text;
}

TEST(Mutants, MisspeltKeysAreRefusedAndTheRightOneIsSuggested) {
  const TempDir dir;
  std::mt19937 random(20240115);
  size_t mutants = 0, right = 0;
  for (const std::string& key : all_keys()) {
    const size_t dot = key.rfind('.');
    const std::string section = dot == std::string::npos ? "" : key.substr(0, dot + 1),
                      leaf = key.substr(dot == std::string::npos ? 0 : dot + 1);
    for (int repeat = 0; repeat < 120; ++repeat) {
      const std::string wrong = edited(leaf, random);
      if (wrong.empty() || is_key(section + wrong) || is_section(section + wrong)) continue;
      const std::vector<Problem> problems = validate_config(sources_with(dir, nested(section + wrong, "1")));
      const auto found = std::find_if(problems.begin(), problems.end(), [&](const Problem& p) { return p.key == section + wrong; });
      ASSERT_NE(found, problems.end()) << section + wrong;
      EXPECT_EQ(found->line, 1u);
      EXPECT_TRUE(found->message.starts_with("unknown key")) << found->message;
      ++mutants;
      right += found->message.find(fmt::format("'{}'", key)) != std::string::npos;
    }
  }
  EXPECT_GT(mutants, 8500u);
  EXPECT_GE(static_cast<double>(right), 0.95 * static_cast<double>(mutants)) << right << " of " << mutants;
  RecordProperty("right_suggestions", fmt::format("{} of {}", right, mutants));
}

TEST(Mutants, KeysInTheWrongSectionAreFound) {
  const TempDir dir;
  size_t mutants = 0;
  for (const std::string& key : all_keys()) {
    const size_t dot = key.rfind('.');
    if (dot == std::string::npos) continue;
    const std::string leaf = key.substr(dot + 1);
    for (const std::string& section : {std::string("train."), std::string("memory."), std::string()}) {
      const std::string wrong = section + leaf;
      if (is_key(wrong) || is_section(wrong)) continue;
      const std::vector<Problem> problems = validate_config(sources_with(dir, nested(wrong, "1")));
      const auto found = std::find_if(problems.begin(), problems.end(), [&](const Problem& p) { return p.key == wrong; });
      ASSERT_NE(found, problems.end()) << wrong;
      EXPECT_NE(found->message.find(fmt::format("'{}'", key)), std::string::npos) << wrong << ": " << found->message;
      ++mutants;
    }
  }
  EXPECT_GT(mutants, 200u);
}

}  // namespace
}  // namespace longlora
