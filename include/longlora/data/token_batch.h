#pragma once
// What the model eats: rows of ids with aligned labels.
#include <cstdint>
#include <vector>
namespace longlora {

/// `rows` x `tokens` ids and labels on the host. labels[t] is the target predicted AT position t (the next token of the same
/// document), kIgnored where there is none. `document_starts[row]` always starts with 0 and is strictly increasing.
struct TokenBatch {
  static constexpr int32_t kIgnored = -100;
  int64_t rows = 0, tokens = 0;
  std::vector<int32_t> ids, labels;                       // [rows * tokens], row-major
  std::vector<std::vector<int64_t>> document_starts;      // [rows]
  std::vector<uint64_t> global_rows;                      // [rows]: the sampler's g of each row (place of dropout counters)
  int64_t targets = 0;                                    // labels that are not kIgnored
  int64_t padding = 0;                                    // tokens added on the right
};

}  // namespace longlora
