#pragma once
// Which row stands where: a pure function of (seed, sizes, position). One integer is the whole data position of a run.
// Definition: docs/data.md section 4.
#include <cstdint>
#include <utility>
#include <vector>

#include "longlora/core/philox.h"

namespace longlora {

/// Keyed permutation of [0, n): 6-round balanced Feistel network on 2b bits, b = max(1, ceil(log2(n)/2)), round function = low b bits of
/// Philox4x32-10 keyed by (seed, purpose, epoch); results >= n are fed back (cycle walking). O(1) expected, n in [1, 2^64), index < n.
///
///   key       first two words of philox({lo(epoch), purpose << 24, hi(epoch), 0}, {lo(seed), hi(seed)})
///   round r   (left, right) <- (right, left ^ (first word of philox({r, right, 0, 0}, key) mod 2^b)),  r = 0..5, index = left 2^b + right
uint64_t permute(uint64_t seed, Purpose, uint64_t epoch, uint64_t n, uint64_t index);

struct RowPlace {
  uint32_t source = 0;
  uint64_t row = 0;
  uint64_t epoch = 0;
};

struct SamplerOptions {
  uint64_t seed = 42;
  bool shuffle = true;
  std::vector<uint64_t> rows;   // rows of each source; without weights all sources form one pool, in order
  std::vector<double> weights;  // empty, or one per source (exact shares in every block of 4096)
};

/// Slots of a block of 4096 that each source owns: round(4096 w / sum w) by largest remainder (ties: the earlier source), sum 4096.
/// A weight that is not positive and finite, or too small for one slot: ErrorKind::config.
std::vector<uint32_t> mixture_slots(const std::vector<double>& weights);

/// One pool: epoch e = g / R, row = P(seed, rows, e; g mod R). Weights: block q = g / 4096, slot s = P(seed, mix, q; g mod 4096); the
/// source d that owns s has the running index q n_d + (s - p_d), which gives its epoch and row as for one pool. No shuffle: P = identity.
class Sampler {
 public:
  explicit Sampler(SamplerOptions);
  RowPlace place(uint64_t g) const;  // global row index -> row
  uint64_t rows_per_epoch() const;   // sum of rows (no weights)
 private:
  uint64_t permuted(Purpose, uint64_t epoch, uint64_t n, uint64_t index) const;
  SamplerOptions options_;
  std::vector<uint64_t> first_row_;  // pool: prefix sums
  std::vector<uint32_t> slots_;      // weights: n_d of 4096
};

/// Position of a run: next global row, plus whole global batches that were skipped.
struct Cursor {
  uint64_t next_row = 0;
  std::vector<std::pair<uint64_t, uint64_t>> skipped;  // [begin, end)
  bool operator==(const Cursor&) const = default;
};

}  // namespace longlora
