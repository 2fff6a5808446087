#pragma once
// Segmented causal attention in fp64, written from the definition: boundary sets by counting, group numbers, every pair looked at. Shares
// no code with the kernels.
#include <cstdint>
#include <vector>

namespace longlora::testing {

struct AttentionCase {
  int64_t rows = 1, tokens = 1, group = 2, heads = 1, kv_heads = 1, num_plain = 0, head_size = 64;
  bool wraps = false;
  std::vector<std::vector<int64_t>> document_starts;  // per row; empty: one document
};

/// [B, T, heads, D] and [B, heads, T], contiguous.
struct AttentionResult {
  std::vector<double> o, lse, d_q, d_k, d_v;
  /// Root of the mean square of the summands of dQ and dK, p dp k and p delta k: where a query sees few keys, or one that dominates, they
  /// cancel, and what rounding leaves is relative to them.
  double d_q_summands = 0, d_k_summands = 0;
};

/// Group number of every position of a row of `tokens`: documents are cut at g, 2g, ... or, shifted, at g/2, g/2 + g, ...
std::vector<int64_t> group_numbers(int64_t tokens, int64_t group, bool shifted, const std::vector<int64_t>& document_starts);

AttentionResult attention_oracle(const AttentionCase&, const std::vector<float>& q, const std::vector<float>& k,
                                 const std::vector<float>& v, const std::vector<float>& d_o);

}  // namespace longlora::testing
