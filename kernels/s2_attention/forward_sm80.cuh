#pragma once
// Forward, one block a query tile: 4 warps of 32 rows, keys from right to left (masked tiles come first), online softmax.
// Q is loaded once; the load of V runs under Q K^T, the load of the next K under P V. docs/attention.md section 6 explains it step by step.
#include "s2_attention/tiles.cuh"

namespace longlora::kernels {

struct ForwardParams {
  Pattern pattern;
  HeadView q, k, v, o;
  StatisticsView lse;
  float scale_log2;  // log2(e) / sqrt(D): the softmax is taken in base 2
  int first_tile, num_tiles;
};

template <class E, int D, bool kAligned>
struct ForwardSm80 {
  using Params = ForwardParams;
  static constexpr int kRows = 128, kKeys = 64, kTileEdge = kRows, kThreads = 128, kMinBlocks = 2;
  using Scores = Accumulators<2, kKeys / 8>;
  using Output = Accumulators<2, D / 8>;

  /// Online softmax of the rows of a lane, in the order (m, half): each thread keeps its own in shared memory between two tiles.
  struct Rows {
    float largest[4], sum[4];
  };
  struct SavedRows {
    alignas(16) float largest[kThreads][4];
    alignas(16) float sum[kThreads][4];
  };
  LONGLORA_DEVICE static void save(SavedRows* saved, const Rows& rows) {
    device::store_128(saved->largest[device::thread_index()], device::pack<float>(rows.largest));
    device::store_128(saved->sum[device::thread_index()], device::pack<float>(rows.sum));
  }
  LONGLORA_DEVICE static Rows recall(const SavedRows* saved) {
    Rows rows;
    device::unpack<float>(device::load_128(saved->largest[device::thread_index()]), rows.largest);
    device::unpack<float>(device::load_128(saved->sum[device::thread_index()]), rows.sum);
    return rows;
  }

  LONGLORA_DEVICE static float quad_max(float x) {
    x = device::maximum(x, device::shuffle_xor(x, 1));
    return device::maximum(x, device::shuffle_xor(x, 2));
  }
  LONGLORA_DEVICE static float quad_sum(float x) {
    x += device::shuffle_xor(x, 1);
    return x + device::shuffle_xor(x, 2);
  }

  /// s becomes p = exp2((s - largest) scale), output and sums are rescaled to the new largest. A row without any key so far stays at 0.
  LONGLORA_DEVICE static void softmax(Scores& s, SavedRows* saved, Output& o, float scale) {
    Rows rows = recall(saved);
    LONGLORA_UNROLL
    for (int m = 0; m < 2; ++m) LONGLORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = rows.largest[2 * m + half];
      LONGLORA_UNROLL
      for (int n = 0; n < kKeys / 8; ++n)
        largest = device::maximum(largest, device::maximum(s.at(m, n, 2 * half), s.at(m, n, 2 * half + 1)));
      largest = quad_max(largest);
      const float reference = largest == -device::infinity() ? 0.0f : largest, base = reference * scale;
      const float shrink = device::exp2((rows.largest[2 * m + half] - reference) * scale);  // exactly 1 while the largest stays
      rows.largest[2 * m + half] = largest;
      float sum = rows.sum[2 * m + half] * shrink;
      LONGLORA_UNROLL
      for (int n = 0; n < kKeys / 8; ++n) LONGLORA_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        const float p = device::exp2(s.at(m, n, e) * scale - base);
        s.at(m, n, e) = p;
        sum += p;
      }
      rows.sum[2 * m + half] = sum;
      LONGLORA_UNROLL
      for (int n = 0; n < D / 8; ++n) {
        o.at(m, n, 2 * half) *= shrink;
        o.at(m, n, 2 * half + 1) *= shrink;
      }
    }
    save(saved, rows);
  }

  /// What a block works on. It lives in shared memory: the main loop needs all 255 registers of a thread for its tiles.
  /// Key tiles go from right to left: those of the wrap-around band first, if there is one, then those of the own segments.
  struct Job {
    int row, head, kv_head, first, begin, end;  // queries [begin, end) of the tile that starts at `first`
    int own_end, band_end, in_band, count;      // key tiles
    int last_row_from;                          // first key that the last query sees
    int visible_from[kRows];                    // and every query; divisions are done once
    SavedRows rows;

    LONGLORA_DEVICE int tile(int i) const {
      const int in = kAligned ? 0 : device::load(&in_band);
      return i < in ? device::load(&band_end) - 1 - i : device::load(&own_end) - 1 - (i - in);
    }
  };
  static constexpr int64_t kSharedBytes = int64_t{kRows + 2 * kKeys} * D * 2 + int64_t{sizeof(Job)};

  LONGLORA_DEVICE static void prepare(const Params& p, Job* job) {
    const Pattern& pattern = p.pattern;
    const Work work = work_of_block(pattern.num_heads, p.first_tile, p.num_tiles);
    const Shift shift = pattern.shift_of(work.head);
    const int first = work.tile * kRows, thread = device::thread_index();
    if (!kAligned) device::store(job->visible_from + thread, pattern.visible_from(work.row, first + thread, shift));
    if (thread != 0) return;
    const int begin = first > pattern.q_begin ? first : pattern.q_begin;
    const int end = first + kRows < pattern.q_end ? first + kRows : pattern.q_end;
    const TileRange own = key_tiles(pattern.visible_from(work.row, begin, shift), end, kKeys);
    TileRange band{0, 0};
    if (!kAligned && pattern.wraps_head(work.head) && begin < pattern.group / 2)
      band = key_tiles(pattern.tokens - pattern.group / 2, pattern.tokens, kKeys);
    const int in_band = static_cast<int>(band.end - band.begin);
    device::store(&job->row, work.row);
    device::store(&job->head, work.head);
    device::store(&job->kv_head, work.head / pattern.heads_per_kv());
    device::store(&job->first, first);
    device::store(&job->begin, begin);
    device::store(&job->end, end);
    device::store(&job->own_end, static_cast<int>(own.end));
    device::store(&job->band_end, static_cast<int>(band.end));
    device::store(&job->in_band, in_band);
    device::store(&job->count, static_cast<int>(own.end - own.begin) + in_band);
    device::store(&job->last_row_from, kAligned ? 0 : pattern.visible_from(work.row, end - 1, shift));
  }

  LONGLORA_DEVICE static void start_keys(const HeadView& view, E* tile, const Pattern& pattern, const Job* job, int n) {
    Tile<E, D>::template start_copy<kKeys, kThreads>(
        tile, at<E>(view, device::load(&job->row), device::load(&job->kv_head), pattern.k_begin, pattern.k_begin), view.token, n * kKeys,
        pattern.k_begin, pattern.k_end);
  }

  LONGLORA_DEVICE static void hide(Scores& s, const Pattern& pattern, const Job* job, int i, int n) {
    const int row0 = device::opaque(32 * device::warp_index()), position0 = device::load(&job->first) + row0;
    if (!kAligned && i < device::load(&job->in_band)) {
      const int half_group = pattern.group / 2;
      mask(s, n * kKeys, [&](int row) { return Columns{pattern.tokens - half_group, position0 + row < half_group ? pattern.tokens : 0}; });
    } else if (needs_diagonal_test(device::load(&job->first) / kRows, n, kRows, kKeys) ||
               (!kAligned && needs_left_test(device::load(&job->last_row_from), n, kKeys))) {
      mask(s, n * kKeys, [&](int row) {
        return Columns{kAligned ? 0 : device::load(job->visible_from + row0 + row), position0 + row + 1};
      });
    }
  }

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& pattern = p.pattern;
    E* q_tile = device::shared_memory<E>();
    E* k_tile = q_tile + kRows * D;
    E* v_tile = k_tile + kKeys * D;
    Job* job = reinterpret_cast<Job*>(v_tile + kKeys * D);
    prepare(p, job);
    device::sync_block();
    start_queries(p, q_tile, job);
    start_keys(p.k, k_tile, pattern, job, job->tile(0));
    device::commit_copies();

    Output o;
    o.clear();
    const float none = -device::infinity();
    save(&job->rows, {{none, none, none, none}, {0.0f, 0.0f, 0.0f, 0.0f}});
    for (int i = 0; i < device::load(&job->count); ++i) {
      device::wait_copies<0>();
      device::sync_block();  // K is here for all, V is no longer read
      start_keys(p.v, v_tile, pattern, job, job->tile(i));
      device::commit_copies();
      Scores s;
      s.clear();
      multiply_rows<E, D>(s, q_tile, device::opaque(32 * device::warp_index()), k_tile);
      hide(s, pattern, job, i, job->tile(i));
      device::wait_copies<0>();
      device::sync_block();  // V is here for all, K is no longer read
      if (i + 1 < device::load(&job->count)) {
        start_keys(p.k, k_tile, pattern, job, job->tile(i + 1));
        device::commit_copies();
      }
      softmax(s, &job->rows, o, p.scale_log2);
      multiply_columns<E, D>(o, s, v_tile);
    }
    finish(p, job, recall(&job->rows), o, q_tile);
  }

  LONGLORA_DEVICE static void start_queries(const Params& p, E* tile, const Job* job) {
    const int begin = device::load(&job->begin);
    Tile<E, D>::template start_copy<kRows, kThreads>(
        tile, at<E>(p.q, device::load(&job->row), device::load(&job->head), begin, p.pattern.q_begin), p.q.token, device::load(&job->first),
        begin, device::load(&job->end));
  }

  LONGLORA_DEVICE static void finish(const Params& p, const Job* job, const Rows& rows, Output& o, E* q_tile) {
    const int row = device::load(&job->row), head = device::load(&job->head), begin = device::load(&job->begin),
              end = device::load(&job->end);
    const int row0 = device::load(&job->first) + 32 * device::warp_index(), window = p.pattern.q_begin;
    float factor[2][2];
    LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, half = i % 2, position = row0 + row_of(m, 2 * half);
      const float sum = quad_sum(rows.sum[2 * m + half]);
      factor[m][half] = device::divide(1.0f, sum);
      if (device::lane_index() % 4 == 0 && position >= begin && position < end)
        device::store(at(p.lse, row, head, position, window), rows.largest[2 * m + half] * p.scale_log2 * kLn2 + device::log(sum));
    }
    store_rows<E, D>(o, factor, q_tile, 32 * device::warp_index(), at<E>(p.o, row, head, begin, window), p.o.token, row0, begin, end);
  }
};

}  // namespace longlora::kernels
