#include "data/joined_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/core/error.h"

namespace longlora {
namespace {

void append_spans(const TokenSource& tokens, uint64_t shift, std::vector<TokenSpan>& out) {
  for (const TokenSpan s : tokens.target_spans()) out.push_back({s.begin + shift, s.end + shift});
  if (!tokens.target_spans().empty()) return;
  const auto starts = tokens.document_starts();
  for (size_t d = 0; d + 1 < starts.size(); ++d)
    if (starts[d] + 1 < starts[d + 1]) out.push_back({starts[d] + 1 + shift, starts[d + 1] + shift});
}

}  // namespace

JoinedSource::JoinedSource(std::vector<Part> parts) : parts_(std::move(parts)), first_token_{0} {
  LONGLORA_INVARIANT(!parts_.empty());
  const bool spans = std::any_of(parts_.begin(), parts_.end(), [](const Part& p) { return !p.tokens->target_spans().empty(); });
  for (const Part& part : parts_) {
    const uint64_t shift = first_token_.back();
    const auto starts = part.tokens->document_starts();
    for (size_t d = 0; d + 1 < starts.size(); ++d) starts_.push_back(starts[d] + shift);
    if (spans) append_spans(*part.tokens, shift, spans_);
    first_token_.push_back(shift + part.tokens->num_tokens());
  }
  starts_.push_back(first_token_.back());
}

size_t JoinedSource::part_of(uint64_t token) const {
  return std::upper_bound(first_token_.begin(), first_token_.end(), token) - first_token_.begin() - 1;
}

void JoinedSource::read(uint64_t first, std::span<int32_t> out) const {
  LONGLORA_INVARIANT(first <= num_tokens() && out.size() <= num_tokens() - first);
  while (!out.empty()) {
    const size_t p = part_of(first);
    const uint64_t n = std::min<uint64_t>(out.size(), first_token_[p + 1] - first);
    parts_[p].tokens->read(first - first_token_[p], out.first(n));
    out = out.subspan(n);
    first += n;
  }
}

uint32_t JoinedSource::vocab_size() const {
  uint32_t result = 0;
  for (const Part& part : parts_) result = std::max(result, part.tokens->vocab_size());
  return result;
}

uint32_t JoinedSource::largest_id() const {
  uint32_t result = 0;
  for (const Part& part : parts_) result = std::max(result, part.tokens->largest_id());
  return result;
}

Digest JoinedSource::content_digest() const {
  if (parts_.size() == 1) return parts_.front().tokens->content_digest();
  Sha256 hash;
  for (const Part& part : parts_) hash.update_value(part.tokens->content_digest());
  return hash.finish();
}

std::string JoinedSource::place_of(uint64_t token) const {
  const size_t p = part_of(token);
  const uint64_t inside = token - first_token_[p];
  const auto starts = parts_[p].tokens->document_starts();
  const size_t document = std::upper_bound(starts.begin(), starts.end(), inside) - starts.begin() - 1;
  return fmt::format("{}: document {}, position {}", parts_[p].label, document, inside - starts[document]);
}

}  // namespace longlora
