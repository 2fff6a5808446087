#pragma once
// dK and dV: one block 64 keys of a KV head (backward_params.cuh says how the two kernels share the work).
#include "s2_attention/backward_params.cuh"

namespace longlora::kernels {

template <class E, int D, bool kAligned>
struct BackwardKvSm80 {
  using Params = BackwardParams;
  static constexpr int kRows = 64, kKeys = 64, kTileEdge = 64, kThreads = 128, kMinBlocks = 2;
  static constexpr int kTileElements = 64 * D;
  using Scores = Accumulators<1, kRows / 8>;
  using Gradient = Accumulators<1, D / 8>;

  /// What a block works on, in shared memory for want of registers: its keys, and the query tiles of the heads that see them.
  struct Job {
    int row, kv_head, tile, begin, end;  // keys [begin, end) of the tile
    int head_begin, head_end;            // query heads
    int lowest, end_plain, end_shifted;  // query tiles of the own segments
    int band_end;                        // query tiles [0, band_end) of the shifted heads in the wrap-around band
    // R of every key for plain heads, then for shifted ones; divisions are done once. Without it two blocks fit an SM of compute
    // capability 8.0.
    int segment_ends[kAligned ? 1 : 2 * kKeys];
  };
  static constexpr int64_t kSharedBytes = int64_t{5} * kTileElements * 2 + 2 * kRows * 4 + int64_t{sizeof(Job)};

  LONGLORA_DEVICE static int tiles_end(const Pattern& pattern, int row, int last_key, Shift shift) {
    const int end = pattern.segment_end(row, last_key, shift), inside = end < pattern.q_end ? end : pattern.q_end;
    return (inside + kRows - 1) / kRows;
  }

  LONGLORA_DEVICE static void prepare(const Params& p, Job* job) {
    const Pattern& pattern = p.pattern;
    const Work work = work_of_block(pattern.num_kv_heads, p.first_tile, p.num_tiles);
    const int first = work.tile * kKeys, thread = device::thread_index();
    if (!kAligned)
      device::store(job->segment_ends + thread,
                    pattern.segment_end(work.row, first + thread % kKeys, thread < kKeys ? Shift::none : Shift::half_group));
    if (thread != 0) return;
    const int begin = first > pattern.k_begin ? first : pattern.k_begin,
              end = first + kKeys < pattern.k_end ? first + kKeys : pattern.k_end;
    const int head_begin = work.head * pattern.heads_per_kv(), head_end = head_begin + pattern.heads_per_kv();
    const bool in_band = !kAligned && pattern.wraps && end > pattern.tokens - pattern.group / 2;
    device::store(&job->row, work.row);
    device::store(&job->kv_head, work.head);
    device::store(&job->tile, work.tile);
    device::store(&job->begin, begin);
    device::store(&job->end, end);
    device::store(&job->head_begin, head_begin);
    device::store(&job->head_end, head_end);
    device::store(&job->lowest, (begin > pattern.q_begin ? begin : pattern.q_begin) / kRows);
    device::store(&job->end_plain, head_begin < pattern.num_plain ? tiles_end(pattern, work.row, end - 1, Shift::none) : 0);
    device::store(&job->end_shifted, head_end > pattern.num_plain ? tiles_end(pattern, work.row, end - 1, Shift::half_group) : 0);
    device::store(&job->band_end, in_band ? (pattern.group / 2 + kRows - 1) / kRows : 0);
  }

  /// A query tile of a head, in the order of the sums. Band 0 are the own segments, band 1 the wrap-around, 2 the end.
  struct Queries {
    int band, tile, head;

    LONGLORA_DEVICE static Queries first(const Job* job, int num_plain) {
      const int end_plain = device::load(&job->end_plain), end_shifted = device::load(&job->end_shifted);
      Queries q{0, (end_plain > end_shifted ? end_plain : end_shifted) - 1, device::load(&job->head_begin)};
      q.settle(job, num_plain);
      return q;
    }
    LONGLORA_DEVICE bool at_end() const { return band > 1; }
    LONGLORA_DEVICE Queries next(const Job* job, int num_plain) const {
      Queries q{band, tile, head + 1};
      q.settle(job, num_plain);
      return q;
    }
    /// Moves on to the first pair of tile and head that exists, from the current one.
    LONGLORA_DEVICE void settle(const Job* job, int num_plain) {
      const int head_begin = device::load(&job->head_begin), head_end = device::load(&job->head_end);
      for (; band < 2; ++band, tile = device::load(&job->band_end) - 1, head = head_begin) {
        const int lowest = band == 0 ? device::load(&job->lowest) : 0;
        const int end_plain = band == 0 ? device::load(&job->end_plain) : 0;
        const int end_shifted = device::load(band == 0 ? &job->end_shifted : &job->band_end);
        for (; tile >= lowest; --tile, head = head_begin)
          for (; head < head_end; ++head)
            if (tile < (head < num_plain ? end_plain : end_shifted)) return;
      }
    }
  };

  /// lse (in base 2) and delta of the query that this thread carries for the block: threads 0..63 lse, 64..127 delta. A query outside the
  /// window gets lse = inf: its p is 0.
  LONGLORA_DEVICE static float load_statistic(const Params& p, const Job* job, const Queries& q) {
    const int thread = device::thread_index(), position = q.tile * kRows + thread % kRows;
    const bool valid = position >= p.pattern.q_begin && position < p.pattern.q_end, is_lse = thread < kRows;
    if (!valid) return is_lse ? device::infinity() : 0.0f;
    const float* source = at(is_lse ? p.lse : p.delta, device::load(&job->row), q.head, position, p.pattern.q_begin);
    return device::load(source) * (is_lse ? kLog2E : 1.0f);
  }

  LONGLORA_DEVICE static void start_queries(const HeadView& view, E* tile, const Pattern& pattern, const Job* job, const Queries& q) {
    Tile<E, D>::template start_copy<kRows, kThreads>(tile, at<E>(view, device::load(&job->row), q.head, pattern.q_begin, pattern.q_begin),
                                                     view.token, q.tile * kRows, pattern.q_begin, pattern.q_end);
  }
  LONGLORA_DEVICE static void start_keys(const HeadView& view, E* tile, const Pattern& pattern, const Job* job) {
    const int begin = device::load(&job->begin);
    Tile<E, D>::template start_copy<kKeys, kThreads>(
        tile, at<E>(view, device::load(&job->row), device::load(&job->kv_head), begin, pattern.k_begin), view.token,
        device::load(&job->tile) * kKeys, begin, device::load(&job->end));
  }

  /// Hides the queries that do not see a key: key u is seen by [u, R(u)), in the band by [0, g/2) if it lies in the last half-group.
  LONGLORA_DEVICE static void hide(Scores& s, const Pattern& pattern, const Job* job, const Queries& q) {
    const int tile = device::load(&job->tile), row0 = 16 * device::opaque(device::warp_index()), key0 = tile * kKeys + row0;
    const int* ends = job->segment_ends + (q.head < pattern.num_plain ? 0 : kKeys);
    if (!kAligned && q.band == 1) {
      const int half_group = pattern.group / 2, from = pattern.tokens - half_group;
      mask(s, q.tile * kRows, [&](int row) { return Columns{0, key0 + row >= from ? half_group : 0}; });
    } else if (needs_diagonal_test(q.tile, tile, kRows, kKeys) || (!kAligned && (q.tile + 1) * kRows > device::load(ends))) {
      mask(s, q.tile * kRows, [&](int row) { return Columns{key0 + row, kAligned ? 0x7fffffff : device::load(ends + row0 + row)}; });
    }
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
    E* k_tile = device::shared_memory<E>();
    E* v_tile = k_tile + kTileElements;
    E* d_o_tile = v_tile + kTileElements;
    E* q_tiles = d_o_tile + kTileElements;
    float* statistics = reinterpret_cast<float*>(q_tiles + 2 * kTileElements);  // lse of the tile's queries, then delta
    Job* job = reinterpret_cast<Job*>(statistics + 2 * kRows);
    prepare(p, job);
    device::sync_block();
    Queries now = Queries::first(job, pattern.num_plain);
    start_keys(p.k, k_tile, pattern, job);
    start_keys(p.v, v_tile, pattern, job);
    if (!now.at_end()) {
      start_queries(p.q, q_tiles, pattern, job, now);
      start_queries(p.d_o, d_o_tile, pattern, job, now);
      device::store(statistics + device::thread_index(), load_statistic(p, job, now));
    }
    device::commit_copies();

    Gradient d_k, d_v;
    load_carry(p.carry_in.d_k, d_k, job, pattern.k_begin);
    load_carry(p.carry_in.d_v, d_v, job, pattern.k_begin);
    for (int stage = 0; !now.at_end(); stage ^= 1) {
      const Queries next = now.next(job, pattern.num_plain);
      const E* q_tile = q_tiles + stage * kTileElements;
      device::wait_copies<0>();
      device::sync_block();  // this tile is here for all, the last one is no longer read
      float statistic = 0.0f;
      if (!next.at_end()) {
        start_queries(p.q, q_tiles + (stage ^ 1) * kTileElements, pattern, job, next);
        statistic = load_statistic(p, job, next);
      }
      device::commit_copies();
      Scores s, dp;
      s.clear();
      multiply_rows<E, D>(s, k_tile, 16 * device::warp_index(), q_tile);
      hide(s, pattern, job, now);
      dp.clear();
      multiply_rows<E, D>(dp, v_tile, 16 * device::warp_index(), d_o_tile);
      differentiate(s, dp, statistics, statistics + kRows, p.scale_log2);
      multiply_columns<E, D>(d_v, s, d_o_tile);
      device::sync_block();  // dO and the statistics are no longer read
      if (!next.at_end()) {
        start_queries(p.d_o, d_o_tile, pattern, job, next);
        device::store(statistics + device::thread_index(), statistic);
      }
      device::commit_copies();
      multiply_columns<E, D>(d_k, dp, q_tile);
      now = next;
    }
    device::wait_copies<0>();  // without queries, K and V are still on their way
    device::sync_block();
    finish(p, job, d_k, d_v, k_tile, v_tile);
  }

  LONGLORA_DEVICE static void load_carry(const HeadView& carry, Gradient& g, const Job* job, int window) {
    g.clear();
    if (carry.data == nullptr) return;
    const int key0 = device::load(&job->tile) * kKeys + 16 * device::warp_index();
    LONGLORA_UNROLL
    for (int i = 0; i < D / 2; ++i) {
      const int n = i / 4, e = i % 4, key = key0 + row_of(0, e);
      if (key < device::load(&job->begin) || key >= device::load(&job->end)) continue;
      g.at(0, n, e) =
          device::load(at<const float>(carry, device::load(&job->row), device::load(&job->kv_head), key, window) + column_of(n, e));
    }
  }
  LONGLORA_DEVICE static void store_carry(const HeadView& carry, Gradient& g, const Job* job, int window) {
    const int key0 = device::load(&job->tile) * kKeys + 16 * device::warp_index();
    LONGLORA_UNROLL
    for (int i = 0; i < D / 2; ++i) {
      const int n = i / 4, e = i % 4, key = key0 + row_of(0, e);
      if (key < device::load(&job->begin) || key >= device::load(&job->end)) continue;
      device::store(at<float>(carry, device::load(&job->row), device::load(&job->kv_head), key, window) + column_of(n, e), g.at(0, n, e));
    }
  }

  LONGLORA_DEVICE static void finish(const Params& p, const Job* job, Gradient& d_k, Gradient& d_v, E* k_tile, E* v_tile) {
    const int window = p.pattern.k_begin, row = 16 * device::warp_index();
    if (p.carry_out.d_k.data != nullptr) {
      store_carry(p.carry_out.d_k, d_k, job, window);
      store_carry(p.carry_out.d_v, d_v, job, window);
      return;
    }
    const int batch_row = device::load(&job->row), head = device::load(&job->kv_head), key0 = device::load(&job->tile) * kKeys + row;
    const int begin = device::load(&job->begin), end = device::load(&job->end);
    store_rows<E, D, 1>(d_k, {{p.scale, p.scale}}, k_tile, row, at<E>(p.d_k, batch_row, head, begin, window), p.d_k.token, key0, begin,
                        end);
    store_rows<E, D, 1>(d_v, {{1.0f, 1.0f}}, v_tile, row, at<E>(p.d_v, batch_row, head, begin, window), p.d_v.token, key0, begin, end);
  }
};

}  // namespace longlora::kernels
