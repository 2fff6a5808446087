#pragma once
// What all attention kernels know of a call: its shape, and the index map of s2_layout.h applied to one row of the batch.
#include "device/vocabulary.h"
#include "longlora/kernels/s2_attention.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora::kernels {

/// The shape as the device sees it. Positions inside a row fit 31 bits; addresses are 64-bit.
struct Pattern {
  int rows, tokens, group, num_heads, num_kv_heads, num_plain, head_size;
  int q_begin, q_end, k_begin, k_end;
  bool wraps;
  const int32_t *document_begin, *document_end;

  LONGLORA_DEVICE int heads_per_kv() const { return num_heads / num_kv_heads; }
  LONGLORA_DEVICE Shift shift_of(int head) const { return head < num_plain ? Shift::none : Shift::half_group; }
  LONGLORA_DEVICE bool wraps_head(int head) const { return wraps && head >= num_plain; }
  /// The segment of a position; positions past the row belong to the last one's document.
  LONGLORA_DEVICE Segment segment(int row, int position, Shift shift) const {
    const int inside = position < tokens ? position : tokens - 1;
    Segment document{0, tokens};
    if (document_begin != nullptr) {
      const int64_t at = int64_t{row} * tokens + inside;
      document = {device::load(document_begin + at), device::load(document_end + at)};
    }
    return segment_of(inside, document, group, shift);
  }
  LONGLORA_DEVICE int visible_from(int row, int position, Shift shift) const {
    return static_cast<int>(segment(row, position, shift).begin);
  }
  LONGLORA_DEVICE int segment_end(int row, int position, Shift shift) const { return static_cast<int>(segment(row, position, shift).end); }
};

/// Element `position` of a view that starts at position `begin`.
template <class E>
LONGLORA_DEVICE E* at(const HeadView& view, int64_t row, int64_t head, int64_t position, int64_t begin) {
  return static_cast<E*>(view.data) + row * view.row + head * view.head + (position - begin) * view.token;
}
LONGLORA_DEVICE float* at(const StatisticsView& view, int64_t row, int64_t head, int64_t position, int64_t begin) {
  return view.data + row * view.row + head * view.head + (position - begin);
}

/// What a block works on: one head of one row, one tile. Tiles of a head run together (they share keys in L2), the last tile first: inside
/// a segment later queries see more, and long work should start early.
struct Work {
  int row, head, tile;
};
/// Opaque: work is computed again where it is needed, rather than kept in registers over the main loop.
LONGLORA_DEVICE Work work_of_block(int num_heads, int first_tile, int num_tiles) {
  const int id = device::opaque(device::block_index());
  const int line = id / num_tiles;
  return {line / num_heads, line % num_heads, first_tile + num_tiles - 1 - id % num_tiles};
}

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

}  // namespace longlora::kernels
