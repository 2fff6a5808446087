#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/data/token_batch.h"

namespace longlora {

TokenBatch cut_sequence(const TokenBatch& whole, const SequencePart& part) {
  LONGLORA_INVARIANT(whole.row_tokens == 0 && part.begin >= 0 && part.begin < part.end && part.end <= whole.tokens);
  TokenBatch cut;
  cut.rows = whole.rows;
  cut.tokens = part.tokens();
  cut.global_rows = whole.global_rows;
  cut.padding = whole.padding;
  cut.first_position = part.begin;
  cut.row_tokens = whole.tokens;
  for (int64_t row = 0; row < whole.rows; ++row) {
    const auto begin = static_cast<std::ptrdiff_t>(row * whole.tokens + part.begin), end = begin + part.tokens();
    cut.ids.insert(cut.ids.end(), whole.ids.begin() + begin, whole.ids.begin() + end);
    cut.labels.insert(cut.labels.end(), whole.labels.begin() + begin, whole.labels.begin() + end);
  }
  cut.targets = std::count_if(cut.labels.begin(), cut.labels.end(), [](int32_t label) { return label != TokenBatch::kIgnored; });
  return cut;
}

}  // namespace longlora
