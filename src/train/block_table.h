#pragma once
// All gradients of a run as one line of blocks: what a rank owns, sends and sums is whole blocks (docs/distributed.md, "One sum").
#include <cstddef>
#include <cstdint>
#include <vector>

namespace longlora {

struct BlockRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// Blocks of `kNormBlock` elements over parameters in table order; every parameter starts a new one, its last may be short.
class BlockTable {
 public:
  explicit BlockTable(std::vector<int64_t> elements_of_parameters);
  int64_t num_blocks() const { return first_block_.back(); }

  struct Segment {
    size_t parameter;
    int64_t begin, count;  // elements
  };
  /// Ascending, one per parameter that the range touches.
  std::vector<Segment> segments(BlockRange) const;

 private:
  std::vector<int64_t> elements_, first_block_;  // first_block_ has one more entry: the end
};

/// What is exchanged in round k = 0 .. log2(ranks) - 1 with rank xor 2^k: the range that both hold is cut in two, the lower rank keeps the
/// lower half.
struct HalvingRound {
  int peer;
  BlockRange keep, give;
};
std::vector<HalvingRound> halving_rounds(int64_t num_blocks, int rank, int num_ranks);

/// The blocks whose sum and optimizer state are rank `rank`'s: what the rounds leave when num_ranks is a power of two, else an equal cut.
BlockRange owned_blocks(int64_t num_blocks, int rank, int num_ranks);

}  // namespace longlora
