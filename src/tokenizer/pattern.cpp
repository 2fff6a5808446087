#include "tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "longlora/core/error.h"
#include "tokenizer/unicode.h"

namespace longlora {
namespace {

// A limit grows with the text, because one call may have to look at every position of it; the constant part bounds backtracking.
constexpr uint64_t kBaseMatchLimit = 10'000'000;
constexpr uint64_t kMatchLimitPerByte = 32;
constexpr uint32_t kDepthLimit = 100'000;
constexpr uint32_t kHeapLimitKiB = 64 * 1024;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  std::string where;
  ~Compiled() { pcre2_code_free(code); }
};

Pattern::Pattern(std::string_view pattern, std::string where) : compiled_(std::make_unique<Compiled>()) {
  const std::string source = pcre2_source(pattern, where);
  compiled_->where = std::move(where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  // MULTILINE: in the reference's dialect ^ and $ always mean lines.
  constexpr uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  compiled_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options, &error, &offset, context);
  pcre2_compile_context_free(context);
  LONGLORA_CHECK(compiled_->code, data, "pattern " + escape(pattern) + " does not compile: " + message_of(error), compiled_->where,
                 "use a tokenizer with a valid pattern");
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);   // where it fails, the interpreter gives the same matches
}

Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

struct PatternMatcher::Scratch {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

PatternMatcher::PatternMatcher(const Pattern& pattern) : pattern_(pattern), scratch_(std::make_unique<Scratch>()) {
  scratch_->data = pcre2_match_data_create(1, nullptr);
  scratch_->context = pcre2_match_context_create(nullptr);
  if (!scratch_->data || !scratch_->context) throw std::bad_alloc();
  pcre2_set_depth_limit(scratch_->context, kDepthLimit);
  pcre2_set_heap_limit(scratch_->context, kHeapLimitKiB);
}

PatternMatcher::~PatternMatcher() = default;

void PatternMatcher::begin(std::string_view text) {
  text_ = text;
  from_ = 0;
  last_end_ = SIZE_MAX;
  const uint64_t limit = kBaseMatchLimit + kMatchLimitPerByte * text.size();
  pcre2_set_match_limit(scratch_->context, static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
}

std::optional<std::pair<size_t, size_t>> PatternMatcher::search(size_t from) {
  // The caller has validated the text; without NO_UTF_CHECK every call would read all of it again.
  const auto run = [&](uint32_t options) {
    return pcre2_match(pattern_.compiled_->code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), from,
                       PCRE2_NO_UTF_CHECK | options, scratch_->data, scratch_->context);
  };
  int code = run(0);
  if (code == PCRE2_ERROR_JIT_STACKLIMIT) code = run(PCRE2_NO_JIT);
  if (code == PCRE2_ERROR_NOMATCH) return std::nullopt;
  LONGLORA_CHECK(code >= 0, data, "the pre-tokenizer's pattern gave up behind byte " + std::to_string(from) + ": " + message_of(code),
                 pattern_.compiled_->where, "use a tokenizer whose pattern does not backtrack without bound");
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch_->data);
  return std::pair<size_t, size_t>{bounds[0], bounds[1]};
}

std::optional<std::pair<size_t, size_t>> PatternMatcher::next() {
  while (from_ <= text_.size()) {
    const auto match = search(from_);
    if (!match) break;
    if (match->first == match->second && match->second == last_end_) {
      if (match->second == text_.size()) break;
      from_ = match->second + code_point_at(text_, match->second).bytes;
      continue;
    }
    from_ = last_end_ = match->second;
    return match;
  }
  from_ = text_.size() + 1;
  return std::nullopt;
}

}  // namespace longlora
