#include "longlora/plan/row_tiles.h"

#include <algorithm>

#include "longlora/core/error.h"

namespace longlora {
namespace {

int64_t tile_size(AttentionKind kind, int64_t half_group, int64_t max_rows) {
  if (kind != AttentionKind::s2 || half_group < max_rows) return max_rows;
  const int64_t tiles = (half_group + max_rows - 1) / max_rows;
  const int64_t rounding = std::min<int64_t>(128, max_rows);
  return ((half_group + tiles - 1) / tiles + rounding - 1) / rounding * rounding;
}

}  // namespace

std::vector<RowTile> row_tiles(int64_t rows, int64_t tokens, AttentionKind kind, int64_t group, int64_t max_rows) {
  LONGLORA_INVARIANT(rows > 0 && tokens > 0 && max_rows > 0);
  std::vector<RowTile> tiles;
  if (tokens <= max_rows) {
    const int64_t step = max_rows / tokens * tokens;
    for (int64_t begin = 0; begin < rows * tokens; begin += step) tiles.push_back({begin, std::min(rows * tokens, begin + step)});
    return tiles;
  }
  const int64_t size = tile_size(kind, group / 2, max_rows);
  const int64_t block = kind == AttentionKind::s2 && group / 2 >= max_rows ? group / 2 : tokens;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t block_begin = 0; block_begin < tokens; block_begin += block) {
      const int64_t block_end = std::min(tokens, block_begin + block);
      for (int64_t begin = block_begin; begin < block_end; begin += size)
        tiles.push_back({row * tokens + begin, row * tokens + std::min(block_end, begin + size)});
    }
  return tiles;
}

int64_t most_tile_rows(const std::vector<RowTile>& tiles) {
  int64_t most = 0;
  for (const RowTile& tile : tiles) most = std::max(most, tile.rows());
  return most;
}

}  // namespace longlora
