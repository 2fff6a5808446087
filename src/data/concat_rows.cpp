#include "data/concat_rows.h"

#include <algorithm>

#include "longlora/core/error.h"

namespace longlora {
namespace {

/// Document starts strictly inside (begin, end).
std::span<const uint64_t> starts_inside(std::span<const uint64_t> starts, uint64_t begin, uint64_t end) {
  const auto from = std::upper_bound(starts.begin(), starts.end(), begin);
  const auto to = std::lower_bound(from, starts.end(), end);
  return {from, to};
}

/// Spans that reach into [begin, end).
std::span<const TokenSpan> spans_inside(std::span<const TokenSpan> spans, uint64_t begin, uint64_t end) {
  const auto from = std::upper_bound(spans.begin(), spans.end(), begin, [](uint64_t at, const TokenSpan& s) { return at < s.end; });
  const auto to = std::lower_bound(from, spans.end(), end, [](const TokenSpan& s, uint64_t at) { return s.begin < at; });
  return {from, to};
}

/// Targets of a cut [begin, end): all its tokens but the first of each piece of a document, restricted to the spans if there are any.
uint64_t count_targets(const TokenSource& source, uint64_t begin, uint64_t end) {
  const auto starts = source.document_starts();
  if (source.target_spans().empty()) return end - begin - 1 - starts_inside(starts, begin, end).size();
  uint64_t targets = 0;
  for (const TokenSpan s : spans_inside(source.target_spans(), begin + 1, end)) {
    const uint64_t from = std::max(s.begin, begin + 1), to = std::min(s.end, end);
    const bool first_of_document = std::binary_search(starts.begin(), starts.end(), from);
    targets += to - from - first_of_document;      // a span lies in one document: only its own first token can be a document's
  }
  return targets;
}

}  // namespace

ConcatRows::ConcatRows(const TokenSource& source, int64_t tokens_per_row)
    : tokens_per_row_(static_cast<uint64_t>(tokens_per_row)),
      num_cuts_((source.num_tokens() + tokens_per_row_ - 1) / tokens_per_row_) {
  for (uint64_t cut = 0; cut < num_cuts_; ++cut) {
    const uint64_t begin = cut * tokens_per_row_;
    if (count_targets(source, begin, std::min(begin + tokens_per_row_, source.num_tokens())) == 0) removed_.push_back(cut);
  }
  const bool last_stays = removed_.empty() || removed_.back() + 1 < num_cuts_;
  if (last_stays) padding_ = num_cuts_ * tokens_per_row_ - source.num_tokens();
}

uint64_t ConcatRows::first_token(uint64_t row) const {
  LONGLORA_INVARIANT(row < size());
  // removed_[i] - i is the number of rows kept before the i-th removed cut, so `skipped` is the count of removed cuts at or before `row`.
  uint64_t skipped = 0, upper = removed_.size();
  while (skipped < upper) {
    const uint64_t middle = (skipped + upper) / 2;
    removed_[middle] - middle <= row ? skipped = middle + 1 : upper = middle;
  }
  return (row + skipped) * tokens_per_row_;
}

void append_concat_row(const TokenSource& source, uint64_t first, int64_t tokens_per_row, int32_t padding_id, TokenBatch& batch) {
  LONGLORA_INVARIANT(batch.rows == 0 || batch.tokens == tokens_per_row);
  const size_t base = batch.ids.size(), width = static_cast<size_t>(tokens_per_row);
  const uint64_t end = std::min(first + width, source.num_tokens());
  const size_t real = end - first;
  batch.ids.resize(base + width, padding_id);
  batch.labels.resize(base + width, TokenBatch::kIgnored);
  const auto ids = std::span(batch.ids).subspan(base, width), labels = std::span(batch.labels).subspan(base, width);
  source.read(first, ids.first(real));

  const auto starts = starts_inside(source.document_starts(), first, end);
  if (source.target_spans().empty()) {
    std::copy(ids.begin() + 1, ids.begin() + real, labels.begin());
  } else {
    for (const TokenSpan s : spans_inside(source.target_spans(), first + 1, end))
      for (uint64_t u = std::max(s.begin, first + 1); u < std::min(s.end, end); ++u) labels[u - 1 - first] = ids[u - first];
  }
  std::vector<int64_t> row_starts{0};
  for (const uint64_t start : starts) {
    labels[start - 1 - first] = TokenBatch::kIgnored;      // the last token of a document has no target
    row_starts.push_back(static_cast<int64_t>(start - first));
  }
  if (real < width) row_starts.push_back(static_cast<int64_t>(real));
  batch.document_starts.push_back(std::move(row_starts));
  batch.targets += static_cast<int64_t>(width - std::count(labels.begin(), labels.end(), TokenBatch::kIgnored));
  batch.padding += static_cast<int64_t>(width - real);
  batch.tokens = tokens_per_row;
  ++batch.rows;
}

}  // namespace longlora
