#pragma once
// What the model eats: rows of ids with aligned labels.
#include <cstdint>
#include <vector>

#include "longlora/config/sequence_parts.h"

namespace longlora {

/// `rows` x `tokens` ids and labels on the host. labels[t] is the target predicted AT position t (the next token of the same
/// document), kIgnored where there is none. `document_starts[row]` always starts with 0 and is strictly increasing.
struct TokenBatch {
  static constexpr int32_t kIgnored = -100;
  int64_t rows = 0, tokens = 0;
  std::vector<int32_t> ids, labels;                   // [rows * tokens], row-major
  std::vector<std::vector<int64_t>> document_starts;  // [rows]
  std::vector<uint64_t> global_rows;                  // [rows]: the sampler's g of each row (place of dropout counters)
  int64_t targets = 0;                                // labels that are not kIgnored
  int64_t padding = 0;                                // tokens added on the right
  /// A part of every row (dist.sequence_parallel): `tokens` of them from `first_position` on, of rows of `row_tokens`; 0: whole rows.
  int64_t first_position = 0, row_tokens = 0;
};

/// Tokens of one part of every row. Labels are aligned, so no neighbour is needed; `targets` are the part's, `padding` stays the rows'.
TokenBatch cut_sequence(const TokenBatch& whole, const SequencePart&);

}  // namespace longlora
