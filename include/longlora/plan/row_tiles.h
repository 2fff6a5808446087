#pragma once
// Row tiles: every token-parallel operation runs over rows [begin, end) of the flattened [B*T, C] activations, a tile at a time.
#include <cstdint>
#include <vector>

#include "longlora/config/train_config.h"

namespace longlora {

inline constexpr int64_t kMaxRowTile = 4096;  // Rmax, tokens

struct RowTile {
  int64_t begin = 0, end = 0;
  int64_t rows() const { return end - begin; }
};

/// The tile grid: a function of shapes and attention alone, never of policy, budget or threads.
///   T <= Rmax          floor(Rmax / T) whole rows of the batch a tile
///   g/2 >= Rmax, s2    the grid restarts at every multiple of b = g/2; a block is ceil(b / Rmax) tiles of equal size rounded up to 128
///   otherwise          the grid restarts at every row; tiles of Rmax, the last one ragged
std::vector<RowTile> row_tiles(int64_t rows, int64_t tokens, AttentionKind, int64_t group, int64_t max_rows = kMaxRowTile);
/// Rows of the largest tile.
int64_t most_tile_rows(const std::vector<RowTile>&);

}  // namespace longlora
