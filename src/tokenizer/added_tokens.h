#pragma once
// Tokens that are found in the text before anything else cuts it (special tokens and user-defined ones).

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pattern.h"

namespace longlora {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;       // a marker: plain text unless the caller parses special tokens
  bool single_word = false;   // only where no word character touches it
  bool lstrip = false;        // takes the white space before it along
  bool rstrip = false;
  bool normalized = true;     // searched in the normalised text, in its normalised form
};

enum class SpecialText { plain, parsed };

/// A part of a text: a token, or a range of bytes without one.
struct TextPart {
  std::optional<int32_t> token;
  size_t begin, end;
};

/// Finds a fixed set of strings, leftmost first, longest among those. Time O(text x longest string) at worst, no memory beside the strings.
class AddedTokenFinder {
 public:
  struct Needle {
    std::string text;
    AddedToken token;
  };
  AddedTokenFinder() = default;
  /// Equal texts: the first wins. Empty texts are dropped.
  explicit AddedTokenFinder(std::vector<Needle>);

  /// The parts of `text` in order, without gaps; empty for an empty text. A special token's text is skipped as a whole when it is plain.
  std::vector<TextPart> split(std::string_view text, SpecialText) const;
  bool empty() const { return needles_.empty(); }

 private:
  const Needle* longest_at(std::string_view text, size_t at) const;
  bool touches_word(std::string_view text, size_t begin, size_t end) const;

  std::vector<Needle> needles_;                         // sorted by text
  std::array<std::pair<uint32_t, uint32_t>, 256> by_first_byte_{};
  std::shared_ptr<const Pattern> word_character_;       // only when some token is a single word
};

}  // namespace longlora
