#pragma once
// Backward in two kernels that own what they write: no atomics, 7 products in place of 5.
//   kv: one block 64 keys of a KV head, one warp 16 of them. It computes S^T = K Q^T and dP^T = V dO^T, so that P^T and dS^T are already in
//       the registers that dV += P^T dO and dK += dS^T Q want as left operand. Query tiles in descending order, in each the query heads of
//       the KV head ascending: the order that windows of queries, later ones first, keep when sums travel in a carry.
//   q:  one block 64 queries of a head, one warp 16 of them, keys from right to left as in the forward pass. dQ += dS K.
// The first streamed operand (Q, or K) has two buffers, the second (dO, or V) one: its next tile is loaded under the last product.
#include "s2_attention/tiles.cuh"

namespace longlora::kernels {

struct BackwardParams {
  Pattern pattern;
  HeadView q, k, v, d_o, d_q, d_k, d_v;
  StatisticsView lse, delta;
  Carry carry_in, carry_out;
  float scale, scale_log2;  // 1 / sqrt(D), and times log2(e)
  int first_tile, num_tiles;
};

template <class E, int D, bool kAligned>
struct BackwardKvSm80 {
  using Params = BackwardParams;
  static constexpr int kRows = 64, kKeys = 64, kTileEdge = 64, kThreads = 128, kMinBlocks = 2;
  static constexpr int kTileElements = 64 * D;
  static constexpr int64_t kSharedBytes = int64_t{5} * kTileElements * 2 + 4 * 64 * 4 + 2 * 64 * 4;
  using Scores = Accumulators<1, kRows / 8>;
  using Gradient = Accumulators<1, D / 8>;

  /// Which query tiles of which heads see the keys of this block, and the place in their order. Band 1 is the wrap-around.
  struct Queries {
    int head_begin, head_end, num_plain;
    int lowest, end_plain, end_shifted;  // tiles of the own segments
    int band_end;                        // tiles [0, band_end) of the shifted heads in the band
    int band, tile, head;

    LONGLORA_DEVICE void start() {
      band = 0;
      tile = (end_plain > end_shifted ? end_plain : end_shifted) - 1;
      head = head_begin;
      settle();
    }
    LONGLORA_DEVICE bool at_end() const { return band > 1; }
    LONGLORA_DEVICE void advance() {
      ++head;
      settle();
    }
    /// Moves on to the next pair of tile and head that exists, from the current one.
    LONGLORA_DEVICE void settle() {
      for (; band < 2; ++band, tile = band_end - 1, head = head_begin) {
        for (; tile >= (band == 0 ? lowest : 0); --tile, head = head_begin)
          for (; head < head_end; ++head)
            if (tile < (band == 1 ? (head < num_plain ? 0 : band_end) : head < num_plain ? end_plain : end_shifted)) return;
      }
    }
  };

  LONGLORA_DEVICE static int tiles_end(const Pattern& pattern, int row, int last_key, Shift shift) {
    const int end = pattern.segment_end(row, last_key, shift), inside = end < pattern.q_end ? end : pattern.q_end;
    return (inside + kRows - 1) / kRows;
  }

  LONGLORA_DEVICE static Queries queries_of(const Pattern& pattern, const Work& work, int first, int end) {
    const int heads = pattern.heads_per_kv(), from = first > pattern.q_begin ? first : pattern.q_begin;
    Queries q;
    q.head_begin = work.head * heads;
    q.head_end = q.head_begin + heads;
    q.num_plain = pattern.num_plain;
    q.lowest = from / kRows;
    q.end_plain = q.head_begin < pattern.num_plain ? tiles_end(pattern, work.row, end - 1, Shift::none) : 0;
    q.end_shifted = q.head_end > pattern.num_plain ? tiles_end(pattern, work.row, end - 1, Shift::half_group) : 0;
    const bool in_band = !kAligned && pattern.wraps && end > pattern.tokens - pattern.group / 2;
    q.band_end = in_band ? (pattern.group / 2 + kRows - 1) / kRows : 0;
    q.start();
    return q;
  }

  /// lse (in base 2) and delta of the query that this thread carries for the block: threads 0..63 lse, 64..127 delta. A query outside the
  /// window gets lse = inf: its p is 0.
  LONGLORA_DEVICE static float load_statistic(const Params& p, int row, const Queries& q) {
    const int thread = device::thread_index(), position = q.tile * kRows + thread % kRows;
    const bool valid = position >= p.pattern.q_begin && position < p.pattern.q_end, is_lse = thread < kRows;
    if (!valid) return is_lse ? device::infinity() : 0.0f;
    const float* source = at(is_lse ? p.lse : p.delta, row, q.head, position, p.pattern.q_begin);
    return device::load(source) * (is_lse ? kLog2E : 1.0f);
  }

  LONGLORA_DEVICE static void start_q(const Params& p, E* tile, int row, const Queries& q) {
    Tile<E, D>::template start_copy<kRows, kThreads>(tile, at<E>(p.q, row, q.head, p.pattern.q_begin, p.pattern.q_begin), p.q.token,
                                                     q.tile * kRows, p.pattern.q_begin, p.pattern.q_end);
  }
  LONGLORA_DEVICE static void start_d_o(const Params& p, E* tile, int row, const Queries& q) {
    Tile<E, D>::template start_copy<kRows, kThreads>(tile, at<E>(p.d_o, row, q.head, p.pattern.q_begin, p.pattern.q_begin), p.d_o.token,
                                                     q.tile * kRows, p.pattern.q_begin, p.pattern.q_end);
  }

  /// Queries of a tile that may see keys: key u is seen by [u, R(u)), in the band by [0, g/2) if it lies in the last half-group.
  /// `segment_ends`: R of the block's keys for plain heads, then for shifted ones.
  LONGLORA_DEVICE static void hide(Scores& s, const Params& p, const Queries& q, const int* segment_ends, int key0) {
    if (!kAligned && q.band == 1) {
      const int half_group = p.pattern.group / 2, from = p.pattern.tokens - half_group;
      mask(s, q.tile * kRows, [&](int row) { return Columns{0, key0 + row >= from ? half_group : 0}; });
    } else {
      const int* ends = segment_ends + (q.head < p.pattern.num_plain ? 0 : kKeys) + 16 * device::warp_index();
      mask(s, q.tile * kRows, [&](int row) { return Columns{key0 + row, kAligned ? 0x7fffffff : device::load(ends + row)}; });
    }
  }

  LONGLORA_DEVICE static bool needs_mask(const Params& p, const Work& work, const Queries& q, const int* segment_ends) {
    if (needs_diagonal_test(q.tile, work.tile, kRows, kKeys)) return true;
    if (kAligned) return false;
    return q.band == 1 || (q.tile + 1) * kRows > device::load(segment_ends + (q.head < p.pattern.num_plain ? 0 : kKeys));
  }

  /// s = S^T becomes P^T, dp = dP^T becomes dS^T.
  LONGLORA_DEVICE static void differentiate(Scores& s, Scores& dp, const float* lse, const float* delta, float scale_log2) {
    LONGLORA_UNROLL
    for (int n = 0; n < kRows / 8; ++n) LONGLORA_UNROLL
    for (int column = 0; column < 2; ++column) {
      const float l = device::load(lse + column_of(n, column)), d = device::load(delta + column_of(n, column));
      LONGLORA_UNROLL
      for (int e = column; e < 4; e += 2) {
        const float probability = device::exp2(s.at(0, n, e) * scale_log2 - l);
        s.at(0, n, e) = probability;
        dp.at(0, n, e) = probability * (dp.at(0, n, e) - d);
      }
    }
  }

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& pattern = p.pattern;
    const Work work = work_of_block(pattern.num_kv_heads, p.first_tile, p.num_tiles);
    const int first = work.tile * kKeys, key0 = first + 16 * device::warp_index();
    const int begin = first > pattern.k_begin ? first : pattern.k_begin;
    const int end = first + kKeys < pattern.k_end ? first + kKeys : pattern.k_end;
    Queries now = queries_of(pattern, work, begin, end);

    E* k_tile = device::shared_memory<E>();
    E* v_tile = k_tile + kTileElements;
    E* d_o_tile = v_tile + kTileElements;
    E* q_tiles = d_o_tile + kTileElements;
    float* statistics = reinterpret_cast<float*>(q_tiles + 2 * kTileElements);  // two times [lse 64, delta 64]
    int* segment_ends = reinterpret_cast<int*>(statistics + 4 * kRows);
    if (!kAligned)
      device::store(segment_ends + device::thread_index(),
                    pattern.segment_end(work.row, first + device::thread_index() % kKeys,
                                        device::thread_index() < kKeys ? Shift::none : Shift::half_group));
    Tile<E, D>::template start_copy<kKeys, kThreads>(k_tile, at<E>(p.k, work.row, work.head, begin, pattern.k_begin), p.k.token, first,
                                                     begin, end);
    Tile<E, D>::template start_copy<kKeys, kThreads>(v_tile, at<E>(p.v, work.row, work.head, begin, pattern.k_begin), p.v.token, first,
                                                     begin, end);
    if (!now.at_end()) {
      start_q(p, q_tiles, work.row, now);
      start_d_o(p, d_o_tile, work.row, now);
      device::store(statistics + device::thread_index(), load_statistic(p, work.row, now));
    }
    device::commit_copies();

    Gradient d_k, d_v;
    load_carry(p.carry_in.d_k, d_k, work, key0, pattern.k_begin, end);
    load_carry(p.carry_in.d_v, d_v, work, key0, pattern.k_begin, end);
    for (int stage = 0; !now.at_end(); stage ^= 1) {
      Queries next = now;
      next.advance();
      const E* q_tile = q_tiles + stage * kTileElements;
      const float* lse = statistics + stage * 128;
      device::wait_copies<0>();
      device::sync_block();  // this tile is here for all, the last one is no longer read
      float statistic = 0.0f;
      if (!next.at_end()) {
        start_q(p, q_tiles + (stage ^ 1) * kTileElements, work.row, next);
        statistic = load_statistic(p, work.row, next);
      }
      device::commit_copies();
      Scores s, dp;
      s.clear();
      multiply_rows<E, D>(s, k_tile, 16 * device::warp_index(), q_tile);
      if (needs_mask(p, work, now, segment_ends)) hide(s, p, now, segment_ends, key0);
      dp.clear();
      multiply_rows<E, D>(dp, v_tile, 16 * device::warp_index(), d_o_tile);
      differentiate(s, dp, lse, lse + 64, p.scale_log2);
      multiply_columns<E, D>(d_v, s, d_o_tile);
      device::sync_block();  // dO is no longer read
      if (!next.at_end()) {
        start_d_o(p, d_o_tile, work.row, next);
        device::store(statistics + (stage ^ 1) * 128 + device::thread_index(), statistic);
      }
      device::commit_copies();
      multiply_columns<E, D>(d_k, dp, q_tile);
      now = next;
    }
    device::wait_copies<0>();  // without queries, K and V are still on their way
    device::sync_block();
    finish(p, work, d_k, d_v, k_tile, v_tile, key0, begin, end);
  }

  LONGLORA_DEVICE static void load_carry(const HeadView& carry, Gradient& g, const Work& work, int key0, int window, int end) {
    g.clear();
    if (carry.data == nullptr) return;
    LONGLORA_UNROLL
    for (int n = 0; n < D / 8; ++n) LONGLORA_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int key = key0 + row_of(0, e);
      if (key >= window && key < end)
        g.at(0, n, e) = device::load(at<const float>(carry, work.row, work.head, key, window) + column_of(n, e));
    }
  }
  LONGLORA_DEVICE static void store_carry(const HeadView& carry, Gradient& g, const Work& work, int key0, int window, int begin, int end) {
    LONGLORA_UNROLL
    for (int n = 0; n < D / 8; ++n) LONGLORA_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int key = key0 + row_of(0, e);
      if (key >= begin && key < end) device::store(at<float>(carry, work.row, work.head, key, window) + column_of(n, e), g.at(0, n, e));
    }
  }

  LONGLORA_DEVICE static void finish(const Params& p, const Work& work, Gradient& d_k, Gradient& d_v, E* k_tile, E* v_tile, int key0,
                                     int begin, int end) {
    const int window = p.pattern.k_begin;
    if (p.carry_out.d_k.data != nullptr) {
      store_carry(p.carry_out.d_k, d_k, work, key0, window, begin, end);
      store_carry(p.carry_out.d_v, d_v, work, key0, window, begin, end);
      return;
    }
    const int row = 16 * device::warp_index();
    store_rows<E, D, 1>(d_k, {{p.scale, p.scale}}, k_tile, row, at<E>(p.d_k, work.row, work.head, begin, window), p.d_k.token, key0, begin,
                        end);
    store_rows<E, D, 1>(d_v, {{1.0f, 1.0f}}, v_tile, row, at<E>(p.d_v, work.row, work.head, begin, window), p.d_v.token, key0, begin, end);
  }
};

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

struct DeltaParams {
  int rows, num_heads, head_size, q_begin, q_end;
  HeadView o, d_o;
  StatisticsView delta;
};

/// delta[h,t] = sum_d dO[t,h,d] O[t,h,d]: D/8 lanes a pair of rows, 16 bytes a lane.
template <class E, int D>
struct DeltaSm80 {
  using Params = DeltaParams;
  static constexpr int kThreads = 128, kMinBlocks = 8, kLanes = D / 8, kPerBlock = kThreads / kLanes;
  static int64_t num_blocks(int64_t rows, int64_t tokens, int64_t heads) { return (rows * tokens * heads + kPerBlock - 1) / kPerBlock; }

  LONGLORA_DEVICE static void run(const Params& p) {
    const int lane = device::thread_index() % kLanes;
    const int64_t tokens = p.q_end - p.q_begin, item = int64_t{device::block_index()} * kPerBlock + device::thread_index() / kLanes;
    const bool valid = item < p.rows * tokens * p.num_heads;
    const int64_t head = item % p.num_heads, token = item / p.num_heads % tokens, row = item / p.num_heads / tokens;
    float sum = 0.0f;
    if (valid) {
      float x[8], y[8];
      device::unpack<E>(device::load_128(at<E>(p.o, row, head, token, 0) + lane * 8), x);
      device::unpack<E>(device::load_128(at<E>(p.d_o, row, head, token, 0) + lane * 8), y);
      LONGLORA_UNROLL
      for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
    }
    LONGLORA_UNROLL
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += device::shuffle_xor(sum, distance);
    if (valid && lane == 0) device::store(at(p.delta, row, head, token, 0), sum);
  }
};

}  // namespace longlora::kernels
