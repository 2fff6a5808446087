#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace longlora {
namespace {

size_t start_of_previous(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0u) == 0x80u);
  return at;
}

size_t strip_left(std::string_view text, size_t at, size_t not_before) {
  while (at > not_before) {
    const size_t previous = start_of_previous(text, at);
    if (!is_white_space(code_point_at(text, previous).value)) break;
    at = previous;
  }
  return at;
}

size_t strip_right(std::string_view text, size_t at) {
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    if (!is_white_space(c.value)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<Needle> needles) : needles_(std::move(needles)) {
  std::erase_if(needles_, [](const Needle& n) { return n.text.empty(); });
  std::stable_sort(needles_.begin(), needles_.end(), [](const Needle& a, const Needle& b) { return a.text < b.text; });
  needles_.erase(std::unique(needles_.begin(), needles_.end(), [](const Needle& a, const Needle& b) { return a.text == b.text; }),
                 needles_.end());
  for (uint32_t i = 0; i < needles_.size(); ++i) {
    auto& [begin, end] = by_first_byte_[static_cast<uint8_t>(needles_[i].text[0])];
    if (begin == end) begin = i;
    end = i + 1;
    if (needles_[i].token.single_word && !word_character_) {
      word_character_ = std::make_shared<Pattern>("[\\w\\x{200C}\\x{200D}]", "added tokens");
    }
  }
}

// The needles that begin with the bytes read so far are neighbours in the sorted list; each further byte narrows the range.
const AddedTokenFinder::Needle* AddedTokenFinder::longest_at(std::string_view text, size_t at) const {
  auto [begin, end] = by_first_byte_[static_cast<uint8_t>(text[at])];
  const Needle* best = nullptr;
  for (size_t depth = 1; begin < end; ++depth) {
    if (needles_[begin].text.size() == depth) best = &needles_[begin++];
    if (begin == end || at + depth >= text.size()) break;
    const auto byte_at = [depth](const Needle& n) { return static_cast<uint8_t>(n.text[depth]); };
    const uint8_t byte = static_cast<uint8_t>(text[at + depth]);
    const auto first = needles_.begin() + begin, last = needles_.begin() + end;
    const auto low = std::partition_point(first, last, [&](const Needle& n) { return byte_at(n) < byte; });
    const auto high = std::partition_point(low, last, [&](const Needle& n) { return byte_at(n) == byte; });
    begin = static_cast<uint32_t>(low - needles_.begin());
    end = static_cast<uint32_t>(high - needles_.begin());
  }
  return best;
}

bool AddedTokenFinder::touches_word(std::string_view text, size_t begin, size_t end) const {
  const auto is_word = [&](size_t at) {
    PatternMatcher matcher(*word_character_);
    matcher.begin(text.substr(at, code_point_at(text, at).bytes));
    return matcher.next().has_value();
  };
  return (begin > 0 && is_word(start_of_previous(text, begin))) || (end < text.size() && is_word(end));
}

std::vector<TextPart> AddedTokenFinder::split(std::string_view text, SpecialText special) const {
  std::vector<TextPart> parts;
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !needles_.empty();) {
    const Needle* needle = longest_at(text, at);
    if (!needle) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + needle->text.size();
    at = end;
    const AddedToken& token = needle->token;
    if ((token.special && special == SpecialText::plain) || (token.single_word && touches_word(text, begin, end))) continue;
    if (token.lstrip) begin = strip_left(text, begin, done);
    if (token.rstrip) end = strip_right(text, end);
    begin = std::max(begin, done);
    if (begin > done) parts.push_back({std::nullopt, done, begin});
    parts.push_back({token.id, begin, end});
    done = end;
  }
  if (done < text.size()) parts.push_back({std::nullopt, done, text.size()});
  return parts;
}

}  // namespace longlora
