#include "train/block_table.h"

#include <algorithm>
#include <bit>

#include "longlora/core/error.h"
#include "longlora/ops/optimizer.h"

namespace longlora {

BlockTable::BlockTable(std::vector<int64_t> elements) : elements_(std::move(elements)), first_block_{0} {
  for (const int64_t count : elements_) first_block_.push_back(first_block_.back() + norm_blocks(count));
}

std::vector<BlockTable::Segment> BlockTable::segments(BlockRange range) const {
  std::vector<Segment> segments;
  for (size_t p = 0; p < elements_.size(); ++p) {
    const int64_t begin = std::max(range.begin, first_block_[p]) - first_block_[p],
                  end = std::min(range.end, first_block_[p + 1]) - first_block_[p];
    if (begin >= end) continue;
    const int64_t last = std::min(end * kNormBlock, elements_[p]);
    segments.push_back({p, begin * kNormBlock, last - begin * kNormBlock});
  }
  return segments;
}

std::vector<HalvingRound> halving_rounds(int64_t num_blocks, int rank, int num_ranks) {
  LONGLORA_INVARIANT(std::has_single_bit(static_cast<unsigned>(num_ranks)));
  std::vector<HalvingRound> rounds;
  BlockRange range{0, num_blocks};
  for (int bit = 1; bit < num_ranks; bit *= 2) {
    const int64_t middle = range.begin + (range.size() + 1) / 2;
    const BlockRange lower{range.begin, middle}, upper{middle, range.end};
    const bool is_lower = (rank & bit) == 0;
    rounds.push_back({rank ^ bit, is_lower ? lower : upper, is_lower ? upper : lower});
    range = rounds.back().keep;
  }
  return rounds;
}

BlockRange owned_blocks(int64_t num_blocks, int rank, int num_ranks) {
  if (std::has_single_bit(static_cast<unsigned>(num_ranks))) {
    const std::vector<HalvingRound> rounds = halving_rounds(num_blocks, rank, num_ranks);
    return rounds.empty() ? BlockRange{0, num_blocks} : rounds.back().keep;
  }
  return {num_blocks * rank / num_ranks, num_blocks * (rank + 1) / num_ranks};
}

}  // namespace longlora
