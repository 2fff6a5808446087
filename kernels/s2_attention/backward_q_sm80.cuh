#pragma once
// dQ: one block 64 queries of a head (backward_params.cuh says how the two kernels share the work).
#include "s2_attention/backward_params.cuh"

namespace longlora::kernels {

template <class E, int D, bool kAligned>
struct BackwardQSm80 {
  using Params = BackwardParams;
  static constexpr int kRows = 64, kKeys = 64, kTileEdge = 64, kThreads = 128, kMinBlocks = 2;
  static constexpr int kTileElements = 64 * D;
  static constexpr int64_t kSharedBytes = int64_t{5} * kTileElements * 2 + kRows * 4;
  using Scores = Accumulators<1, kKeys / 8>;
  using Gradient = Accumulators<1, D / 8>;

  /// Key tiles from right to left: the wrap-around band, then the own segments.
  struct Keys {
    int own_end, band_end, in_band, count;
    LONGLORA_DEVICE int tile(int i) const { return i < in_band ? band_end - 1 - i : own_end - 1 - (i - in_band); }
  };
  LONGLORA_DEVICE static Keys keys_of(const Pattern& pattern, const Work& work, int begin, int end) {
    const TileRange own = key_tiles(pattern.visible_from(work.row, begin, pattern.shift_of(work.head)), end, kKeys);
    TileRange band{0, 0};
    if (!kAligned && pattern.wraps_head(work.head) && begin < pattern.group / 2)
      band = key_tiles(pattern.tokens - pattern.group / 2, pattern.tokens, kKeys);
    const int in_band = static_cast<int>(band.end - band.begin);
    return {static_cast<int>(own.end), static_cast<int>(band.end), in_band, static_cast<int>(own.end - own.begin) + in_band};
  }

  /// What a lane knows of its two rows; a row outside the window has lse = inf, so that its p is 0.
  struct Rows {
    float lse[2], delta[2];
  };
  LONGLORA_DEVICE static Rows rows_of(const Params& p, const Work& work, int row0, int begin, int end) {
    Rows rows;
    LONGLORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int position = row0 + row_of(0, 2 * half);
      const bool valid = position >= begin && position < end;
      rows.lse[half] = valid ? device::load(at(p.lse, work.row, work.head, position, p.pattern.q_begin)) * kLog2E : device::infinity();
      rows.delta[half] = valid ? device::load(at(p.delta, work.row, work.head, position, p.pattern.q_begin)) : 0.0f;
    }
    return rows;
  }

  LONGLORA_DEVICE static void start_keys(const HeadView& view, E* tile, const Params& p, const Work& work, int n) {
    const int kv_head = work.head / p.pattern.heads_per_kv();
    Tile<E, D>::template start_copy<kKeys, kThreads>(tile, at<E>(view, work.row, kv_head, p.pattern.k_begin, p.pattern.k_begin), view.token,
                                                     n * kKeys, p.pattern.k_begin, p.pattern.k_end);
  }

  /// dp becomes ds = p (dp - delta).
  LONGLORA_DEVICE static void differentiate(Scores& s, Scores& dp, const Rows& rows, float scale_log2) {
    LONGLORA_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) LONGLORA_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float probability = device::exp2(s.at(0, n, e) * scale_log2 - rows.lse[e / 2]);
      dp.at(0, n, e) = probability * (dp.at(0, n, e) - rows.delta[e / 2]);
    }
  }

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& pattern = p.pattern;
    const Work work = work_of_block(pattern.num_heads, p.first_tile, p.num_tiles);
    const int first = work.tile * kRows, row0 = first + 16 * device::warp_index();
    const int begin = first > pattern.q_begin ? first : pattern.q_begin;
    const int end = first + kRows < pattern.q_end ? first + kRows : pattern.q_end;
    const Keys keys = keys_of(pattern, work, begin, end);
    const int last_row_from = pattern.visible_from(work.row, end - 1, pattern.shift_of(work.head));

    E* q_tile = device::shared_memory<E>();
    E* d_o_tile = q_tile + kTileElements;
    E* v_tile = d_o_tile + kTileElements;
    E* k_tiles = v_tile + kTileElements;
    int* visible_from = reinterpret_cast<int*>(k_tiles + 2 * kTileElements);
    if (!kAligned && device::thread_index() < kRows)
      device::store(visible_from + device::thread_index(),
                    pattern.visible_from(work.row, first + device::thread_index(), pattern.shift_of(work.head)));
    Tile<E, D>::template start_copy<kRows, kThreads>(q_tile, at<E>(p.q, work.row, work.head, begin, pattern.q_begin), p.q.token, first,
                                                     begin, end);
    Tile<E, D>::template start_copy<kRows, kThreads>(d_o_tile, at<E>(p.d_o, work.row, work.head, begin, pattern.q_begin), p.d_o.token,
                                                     first, begin, end);
    start_keys(p.k, k_tiles, p, work, keys.tile(0));
    start_keys(p.v, v_tile, p, work, keys.tile(0));
    device::commit_copies();

    const Rows rows = rows_of(p, work, row0, begin, end);
    Gradient d_q;
    d_q.clear();
    for (int i = 0; i < keys.count; ++i) {
      const int n = keys.tile(i);
      const E* k_tile = k_tiles + (i & 1) * kTileElements;
      device::wait_copies<0>();
      device::sync_block();  // this tile is here for all, the last one is no longer read
      if (i + 1 < keys.count) start_keys(p.k, k_tiles + ((i + 1) & 1) * kTileElements, p, work, keys.tile(i + 1));
      device::commit_copies();
      Scores s, dp;
      s.clear();
      multiply_rows<E, D>(s, q_tile, 16 * device::warp_index(), k_tile);
      if (!kAligned && i < keys.in_band) {
        mask(s, n * kKeys, [&](int row) {
          const int half_group = pattern.group / 2;
          return Columns{pattern.tokens - half_group, row0 + row < half_group ? pattern.tokens : 0};
        });
      } else if (needs_diagonal_test(work.tile, n, kRows, kKeys) || (!kAligned && needs_left_test(last_row_from, n, kKeys))) {
        mask(s, n * kKeys, [&](int row) {
          return Columns{kAligned ? 0 : device::load(visible_from + row0 - first + row), row0 + row + 1};
        });
      }
      dp.clear();
      multiply_rows<E, D>(dp, d_o_tile, 16 * device::warp_index(), v_tile);
      device::sync_block();  // V is no longer read
      if (i + 1 < keys.count) start_keys(p.v, v_tile, p, work, keys.tile(i + 1));
      device::commit_copies();
      differentiate(s, dp, rows, p.scale_log2);
      multiply_columns<E, D>(d_q, dp, k_tile);
    }
    store_rows<E, D, 1>(d_q, {{p.scale, p.scale}}, q_tile, 16 * device::warp_index(),
                        at<E>(p.d_q, work.row, work.head, begin, pattern.q_begin), p.d_q.token, row0, begin, end);
  }
};

}  // namespace longlora::kernels
