#include "train/block_table.h"

#include <gtest/gtest.h>

#include <vector>

namespace longlora {
namespace {

TEST(BlockTable, SegmentsCoverEveryElementOnceInOrder) {
  const std::vector<int64_t> elements = {1, 16384, 16385, 40000, 7};
  const BlockTable table(elements);
  EXPECT_EQ(table.num_blocks(), 1 + 1 + 2 + 3 + 1);
  for (int64_t cut = 0; cut <= table.num_blocks(); ++cut) {
    std::vector<int64_t> seen(elements.size(), 0);
    for (const BlockRange range : {BlockRange{0, cut}, BlockRange{cut, table.num_blocks()}}) {
      for (const BlockTable::Segment& s : table.segments(range)) {
        EXPECT_EQ(s.begin, seen[s.parameter]) << cut;
        seen[s.parameter] += s.count;
      }
    }
    EXPECT_EQ(seen, elements) << cut;
  }
}

TEST(BlockTable, EveryBlockHasOneOwner) {
  for (const int64_t blocks : {0, 1, 2, 5, 64, 1000}) {
    for (int ranks = 1; ranks <= 16; ++ranks) {
      std::vector<int> owners(static_cast<size_t>(blocks), 0);
      for (int r = 0; r < ranks; ++r) {
        const BlockRange range = owned_blocks(blocks, r, ranks);
        EXPECT_LE(range.size(), (blocks + ranks - 1) / ranks + 4);  // a halving may round up once a round
        for (int64_t b = range.begin; b < range.end; ++b) ++owners[static_cast<size_t>(b)];
      }
      EXPECT_EQ(owners, std::vector<int>(static_cast<size_t>(blocks), 1)) << blocks << " blocks, " << ranks << " ranks";
    }
  }
}

TEST(BlockTable, PeersOfARoundGiveWhatTheOtherKeeps) {
  for (const int ranks : {2, 4, 8, 16}) {
    for (int r = 0; r < ranks; ++r) {
      const std::vector<HalvingRound> mine = halving_rounds(77, r, ranks);
      for (size_t k = 0; k < mine.size(); ++k) {
        const HalvingRound theirs = halving_rounds(77, mine[k].peer, ranks)[k];
        EXPECT_EQ(theirs.peer, r);
        EXPECT_EQ(theirs.keep.begin, mine[k].give.begin);
        EXPECT_EQ(theirs.keep.end, mine[k].give.end);
      }
    }
  }
}

}  // namespace
}  // namespace longlora
