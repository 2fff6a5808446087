#pragma once
// The steps of tokenizer.json that come before the model: normalizers change a text, pre-tokenizers cut it into words.

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/pattern.h"

namespace longlora {

struct Prepend { std::string text; };                    // nothing is put before an empty text
struct ReplaceLiteral { std::string from, to; };         // `from` is not empty
using Normalizer = std::variant<Prepend, ReplaceLiteral>;

std::string normalize(const std::vector<Normalizer>&, std::string_view text);

enum class Delimiter { isolated, removed };
struct SplitStep {
  Pattern pattern;
  Delimiter matches;
  bool invert;                                           // what lies between the matches is the delimiter
};
struct SplitLiteralStep { std::string literal; Delimiter matches; bool invert; };
struct ByteAlphabetStep {};                              // every byte becomes a printable character
struct PrefixSpaceStep {};                               // ByteLevel.add_prefix_space
enum class PrependScheme { always, first, never };
struct MetaspaceStep { std::string replacement; PrependScheme scheme; bool split; };
using PreTokenizer = std::variant<SplitStep, SplitLiteralStep, ByteAlphabetStep, PrefixSpaceStep, MetaspaceStep>;

/// A text and the words it is cut into: half-open byte ranges in order, none empty.
struct Words {
  struct Range { size_t begin, end; };
  std::string text;
  std::vector<Range> ranges;
  bool starts_document = false;                          // text[0] is the first character of what the user gave
  std::string_view word(const Range& r) const { return std::string_view(text).substr(r.begin, r.end - r.begin); }
};

/// Cuts `text` by all steps in order. Time linear in the text for patterns that do not backtrack.
Words pre_tokenize(const std::vector<PreTokenizer>&, std::string text, bool starts_document);

}  // namespace longlora
