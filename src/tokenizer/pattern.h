#pragma once
// Regular expressions of pre-tokenizers: the Oniguruma dialect of tokenizer.json, run on PCRE2 (UTF, UCP, JIT).
//
// Goals: the same matches as the reference for every pattern we accept; no pattern or text can hang or crash the program.
// Non-goals: the whole dialect. What the two engines read differently (\b, \h, nested classes, &&, ...) is refused by name.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace longlora {

/// Translates the accepted dialect to PCRE2. `\s \S \w` become explicit Unicode sets, also inside classes: PCRE2's own \s misses U+0085
/// and its \w misses marks. Refused constructs: ErrorKind::data naming the construct; `where` names the place of the pattern.
std::string pcre2_source(std::string_view pattern, std::string_view where);

/// A compiled pattern; const and thread-safe.
class Pattern {
 public:
  Pattern(std::string_view pattern, std::string where);
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

 private:
  friend class PatternMatcher;
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

/// Scratch memory of one thread for one pattern, which must outlive it.
class PatternMatcher {
 public:
  explicit PatternMatcher(const Pattern&);
  ~PatternMatcher();
  PatternMatcher(const PatternMatcher&) = delete;
  PatternMatcher& operator=(const PatternMatcher&) = delete;

  /// Starts at a new text (valid UTF-8, must stay alive). `next` yields matches {begin, end} left to right; an empty match directly
  /// behind the match before it is skipped. A match, depth or heap limit that is hit: ErrorKind::data.
  void begin(std::string_view text);
  std::optional<std::pair<size_t, size_t>> next();

 private:
  std::optional<std::pair<size_t, size_t>> search(size_t from);
  struct Scratch;
  const Pattern& pattern_;
  std::unique_ptr<Scratch> scratch_;
  std::string_view text_;
  size_t from_ = 0;
  size_t last_end_ = SIZE_MAX;
};

}  // namespace longlora
