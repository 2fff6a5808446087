#include "tokenizer/text_steps.h"

#include <utility>

#include "longlora/core/text.h"
#include "tokenizer/unicode.h"

namespace longlora {
namespace {

using Range = Words::Range;

std::string apply(const Prepend& step, std::string text) { return text.empty() ? text : step.text + text; }
std::string apply(const ReplaceLiteral& step, std::string text) { return replace_all(text, step.from, step.to); }

/// Collects the pieces of one word; `piece(begin, end, is_match)`, offsets within the word, in order and without gaps.
class Cutter {
 public:
  Cutter(std::vector<Range>& out, size_t base, Delimiter delimiter, bool invert)
      : out_(out), base_(base), removes_(delimiter == Delimiter::removed), invert_(invert) {}
  void match(size_t begin, size_t end) {
    piece(done_, begin, false);
    piece(begin, end, true);
    done_ = end;
  }
  void finish(size_t end) { piece(done_, end, false); }

 private:
  void piece(size_t begin, size_t end, bool is_match) {
    if (begin == end || (removes_ && is_match != invert_)) return;
    out_.push_back({base_ + begin, base_ + end});
  }
  std::vector<Range>& out_;
  size_t base_, done_ = 0;
  bool removes_, invert_;
};

void apply(const SplitStep& step, Words& words) {
  std::vector<Range> out;
  out.reserve(words.ranges.size());
  PatternMatcher matcher(step.pattern);
  for (const Range& range : words.ranges) {
    const std::string_view word = words.word(range);
    Cutter cutter(out, range.begin, step.matches, step.invert);
    matcher.begin(word);
    while (const auto match = matcher.next()) cutter.match(match->first, match->second);
    cutter.finish(word.size());
  }
  words.ranges = std::move(out);
}

void apply(const SplitLiteralStep& step, Words& words) {
  std::vector<Range> out;
  for (const Range& range : words.ranges) {
    const std::string_view word = words.word(range);
    Cutter cutter(out, range.begin, step.matches, step.invert);
    for (size_t hit = 0; (hit = word.find(step.literal, hit)) != std::string_view::npos; hit += step.literal.size()) {
      cutter.match(hit, hit + step.literal.size());
    }
    cutter.finish(word.size());
  }
  words.ranges = std::move(out);
}

/// Rewrites every word: `rewrite(word, range, out)` appends the new text.
template <class F>
void rewrite_words(Words& words, F&& rewrite) {
  std::string text;
  text.reserve(words.text.size() + words.text.size() / 4);
  for (Range& range : words.ranges) {
    const size_t begin = text.size();
    rewrite(words.word(range), range, text);
    range = {begin, text.size()};
  }
  words.text = std::move(text);
}

void apply(const ByteAlphabetStep&, Words& words) {
  rewrite_words(words, [](std::string_view word, const Range&, std::string& out) {
    for (const char c : word) append_utf8(out, char_of_byte(static_cast<uint8_t>(c)));
  });
}

void apply(const PrefixSpaceStep&, Words& words) {
  rewrite_words(words, [](std::string_view word, const Range&, std::string& out) {
    if (!word.starts_with(' ')) out += ' ';
    out += word;
  });
}

void apply(const MetaspaceStep& step, Words& words) {
  const bool starts_document = words.starts_document;
  rewrite_words(words, [&](std::string_view word, const Range& range, std::string& out) {
    const bool wanted =
        step.scheme == PrependScheme::always || (step.scheme == PrependScheme::first && starts_document && range.begin == 0);
    const std::string replaced = replace_all(word, " ", step.replacement);
    if (wanted && !replaced.starts_with(step.replacement)) out += step.replacement;
    out += replaced;
  });
  if (!step.split) return;
  std::vector<Range> out;
  for (const Range& range : words.ranges) {  // a word begins at every replacement character
    size_t begin = range.begin;
    for (size_t hit = range.begin; (hit = words.text.find(step.replacement, hit)) < range.end; hit += step.replacement.size()) {
      if (hit > begin) out.push_back({begin, hit});
      begin = hit;
    }
    if (begin < range.end) out.push_back({begin, range.end});
  }
  words.ranges = std::move(out);
}

}  // namespace

std::string normalize(const std::vector<Normalizer>& steps, std::string_view text) {
  std::string out(text);
  for (const Normalizer& step : steps) {
    out = std::visit([&](const auto& s) { return apply(s, std::move(out)); }, step);
  }
  return out;
}

Words pre_tokenize(const std::vector<PreTokenizer>& steps, std::string text, bool starts_document) {
  Words words{std::move(text), {}, starts_document};
  if (words.text.empty()) return words;
  words.ranges.push_back({0, words.text.size()});
  for (const PreTokenizer& step : steps) std::visit([&](const auto& s) { apply(s, words); }, step);
  return words;
}

}  // namespace longlora
