// The grid of row tiles, from hand-made tables.
#include "longlora/plan/row_tiles.h"

#include <gtest/gtest.h>

#include <utility>

namespace longlora::test {
namespace {

std::vector<std::pair<int64_t, int64_t>> tiles_of(int64_t rows, int64_t tokens, AttentionKind kind, int64_t group, int64_t max_rows) {
  std::vector<std::pair<int64_t, int64_t>> result;
  for (const RowTile t : row_tiles(rows, tokens, kind, group, max_rows)) result.emplace_back(t.begin, t.end);
  return result;
}

TEST(RowTiles, FollowRowsAndHalfGroups) {
  using P = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(tiles_of(3, 5, AttentionKind::full, 0, 16), (P{{0, 15}}));  // whole rows together
  EXPECT_EQ(tiles_of(3, 9, AttentionKind::s2, 4, 16), (P{{0, 9}, {9, 18}, {18, 27}}));
  EXPECT_EQ(tiles_of(2, 20, AttentionKind::full, 0, 16), (P{{0, 16}, {16, 20}, {20, 36}, {36, 40}}));
  EXPECT_EQ(tiles_of(1, 50, AttentionKind::s2, 40, 16), (P{{0, 16}, {16, 20}, {20, 36}, {36, 40}, {40, 50}}));
  EXPECT_EQ(tiles_of(1, 25600, AttentionKind::s2, 25600, 4096),
            (P{{0, 3200}, {3200, 6400}, {6400, 9600}, {9600, 12800}, {12800, 16000}, {16000, 19200}, {19200, 22400}, {22400, 25600}}));
}

TEST(RowTiles, TheLargestIsTheRoundedOne) {
  EXPECT_EQ(most_tile_rows(row_tiles(1, 100000, AttentionKind::s2, 25000)), 3200);  // 12,500 in four, 3,125 rounded up to 128
  EXPECT_EQ(most_tile_rows(row_tiles(3, 1000, AttentionKind::s2, 256)), 3000);
  EXPECT_EQ(most_tile_rows(row_tiles(1, 9000, AttentionKind::full, 0)), kMaxRowTile);
}

}  // namespace
}  // namespace longlora::test
