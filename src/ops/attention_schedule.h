#pragma once
// Causal attention inside segments, backward (docs/attention.md section 5): the order of the work.
//
// Two forms with the same order of additions, hence the same bits:
//   fused       fp32: a task takes one block of keys and one block of queries and adds into d_k, d_v and d_q where they lie (5 products).
//               All tasks of a phase have the same distance m - n, so no two of them share a block of queries or of keys of a KV head;
//               phases go from the farthest pairs to the diagonal.
//   two passes  bf16, or d_q lies over q: d_k and d_v by block of keys, then d_q by block of queries (7 products), sums kept in scratch.
//               Each pass may also be a call of its own.
// For a block of keys the query blocks come in descending order and inside one the heads ascend; for a block of queries the keys ascend.
// In s2_wrap the pairs of the second range come first, along the diagonals of its square.
#include "attention_backward_pair.h"
#include "attention_tasks.h"

namespace longlora::attention {

class BackwardSchedule {
 public:
  explicit BackwardSchedule(const BackwardCall& call)
      : c_(call),
        block_(call.tiles.block),
        num_rows_(call.lse.size(0)),
        num_kv_(call.num_heads / call.pattern.heads_per_kv),
        first_m_(call.q.begin / block_),
        end_m_((call.q.end + block_ - 1) / block_),
        first_n_(call.k.begin / block_),
        end_n_((call.k.end + block_ - 1) / block_),
        who_(workers_for(2 * call.lse.numel() * call.q.head_size * (call.k.end - call.k.begin))) {
    if (!c_.pattern.has_wrap()) return;
    wrap_m_ = (wrap_queries(c_.pattern.group).end + block_ - 1) / block_;
    wrap_n_ = wrap_keys(c_.pattern.tokens(), c_.pattern.group).begin / block_;
    wrap_size_ = std::max(wrap_m_, end_n_ - wrap_n_);
  }

  void run_fused() const {
    prepare(c_.pattern.has_wrap());
    for (int64_t phase = 0; phase < wrap_size_; ++phase) {
      run_tasks(who_, num_rows_ * num_kv_ * wrap_m_, [&](int64_t i) {
        const int64_t m = i % wrap_m_, n = wrap_n_ + (m + phase) % wrap_size_;
        if (n < end_n_) fused_pair(i / wrap_m_ / num_kv_, i / wrap_m_ % num_kv_, m, n, Band::wrap);
      });
    }
    for (int64_t distance = farthest(); distance >= 0; --distance) {
      const int64_t first = std::max(first_m_, distance), count = end_m_ - first;
      if (count <= 0) continue;
      run_tasks(who_, num_rows_ * num_kv_ * count, [&](int64_t i) {
        const int64_t m = first + i % count;
        fused_pair(i / count / num_kv_, i / count % num_kv_, m, m - distance, Band::causal);
      });
    }
  }

  void run_two_passes() const {
    prepare(false);
    run_keys();
    run_queries();
  }

  /// d_k and d_v of the window of keys.
  void run_keys() const {
    const int64_t lines = num_rows_ * num_kv_;
    run_tasks(who_, lines * (end_n_ - first_n_), [&](int64_t i) {  // early keys are seen by most queries: longest first
      key_pass(i % lines / num_kv_, i % num_kv_, first_n_ + i / lines);
    });
  }

  /// d_q of the window of queries.
  void run_queries() const {
    const int64_t lines = num_rows_ * c_.num_heads;
    run_tasks(who_, lines * (end_m_ - first_m_), [&](int64_t i) {  // late queries see most keys: longest first
      query_pass(i % lines / c_.num_heads, i % c_.num_heads, end_m_ - 1 - i / lines);
    });
  }

 private:
  int64_t first_head(int64_t kv) const { return kv * c_.pattern.heads_per_kv; }
  int64_t end_head(int64_t kv) const { return (kv + 1) * c_.pattern.heads_per_kv; }

  /// R of the last held key of block n, over the heads of a KV head: queries from here on see none of its keys.
  int64_t last_reader_end(int64_t b, int64_t kv, int64_t n) const {
    const int64_t last_key = std::min((n + 1) * block_, c_.k.end) - 1;
    const RowMap map = c_.pattern.row(b);
    return std::max(map.segment_end(last_key, c_.pattern.shift_of(first_head(kv))),
                    map.segment_end(last_key, c_.pattern.shift_of(end_head(kv) - 1)));
  }

  /// Query blocks that see keys of block n, in the window; empty if none does.
  TileRange readers(int64_t b, int64_t kv, int64_t n) const {
    const int64_t begin = std::max(n * block_, c_.q.begin), end = std::min(last_reader_end(b, kv, n), c_.q.end);
    return begin < end ? query_tiles(begin, end, block_) : TileRange{0, 0};
  }

  /// Largest m - n of a pair of blocks with an allowed pair.
  int64_t farthest() const {
    int64_t distance = 0;
    for (int64_t b = 0; b < num_rows_; ++b) {
      const RowMap map = c_.pattern.row(b);
      for (int64_t m = first_m_; m < end_m_; ++m) {
        const int64_t position = std::max(m * block_, c_.q.begin);
        const int64_t from =
            std::min(map.visible_from(position, c_.pattern.shift_of(0)), map.visible_from(position, c_.pattern.shift_of(c_.num_heads - 1)));
        distance = std::max(distance, m - from / block_);
      }
    }
    return distance;
  }

  /// delta of every query; zeros where no pair will write. `clear_all`: everywhere, for the order of s2_wrap.
  void prepare(bool clear_all) const {
    const int64_t first = std::min(first_m_, first_n_), count = std::max(end_m_, end_n_) - first;
    run_tasks(who_, num_rows_ * count, [&](int64_t i) {
      const int64_t b = i / count, n = first + i % count, begin = n * block_, end = begin + block_;
      for (int64_t head = 0; head < c_.num_heads; ++head) {
        for (int64_t t = std::max(begin, c_.q.begin); t < std::min(end, c_.q.end); ++t) {
          c_.delta_at(b, head, t) = dot(c_.o, c_.d_o, b, t, head);
        }
        if (clear_all) store_zeros(c_.d_q, b, head, begin, end);
      }
      for (int64_t kv = 0; kv < num_kv_ && n >= first_n_ && n < end_n_; ++kv) {
        const TileRange range = readers(b, kv, n);
        if (!clear_all && range.begin < range.end) continue;
        store_zeros(c_.d_k, b, kv, begin, end);
        store_zeros(c_.d_v, b, kv, begin, end);
      }
    });
  }

  /// f(first position, bounds) for the tiles of query block m in one band, for one head.
  template <class F>
  void for_tiles(int64_t b, int64_t head, int64_t m, Band band, F&& f) const {
    if (band == Band::wrap && !c_.pattern.wraps(head)) return;
    const RowMap map = c_.pattern.row(b);
    for (int64_t at = m * block_; at < (m + 1) * block_; at += c_.tiles.rows) {
      const int64_t begin = std::max(at, c_.q.begin), end = std::min(at + c_.tiles.rows, c_.q.end);
      if (begin >= end) continue;
      f((at - m * block_) / c_.tiles.rows, begin, row_bounds(c_.pattern, map, c_.pattern.shift_of(head), band, begin, end));
    }
  }

  void fused_pair(int64_t b, int64_t kv, int64_t m, int64_t n, Band band) const {
    const TileRange range = band == Band::wrap ? TileRange{m, m + 1} : readers(b, kv, n);
    if (m < range.begin || m >= range.end) return;
    const bool cleared = c_.pattern.has_wrap();
    BackwardPair pair(c_, b, kv);
    pair.load_keys(n);
    cleared || m != range.end - 1 ? pair.load_key_gradients(n, c_.d_k, c_.d_v) : pair.clear_key_gradients();
    for (int64_t head = first_head(kv); head < end_head(kv); ++head) {
      for_tiles(b, head, m, band, [&](int64_t, int64_t begin, const RowBounds& bounds) {
        if (!pair.meets(bounds)) return;
        const int64_t end = begin + bounds.count;
        const bool is_first = !cleared && n == bounds.first_key() / block_;
        const bool is_last = band == Band::causal && n == (bounds.end_key() - 1) / block_;
        float* d_q = pair.query_gradients(0);
        if (is_first) {
          std::fill_n(d_q, c_.tiles.rows * c_.tiles.width, 0.0f);
        } else {
          load_rows(c_.d_q, b, head, begin, end, d_q, c_.tiles.rows);
        }
        pair.add(head, begin, bounds, Products::all, d_q);
        store_rows(c_.d_q, b, head, begin, end, d_q, c_.tiles.rows, is_last ? c_.scale : 1.0f);
      });
    }
    pair.store_key_gradients(n, band == Band::causal && m == range.begin ? c_.scale : 1.0f);
  }

  void key_pass(int64_t b, int64_t kv, int64_t n) const {
    BackwardPair pair(c_, b, kv);
    pair.load_keys(n);
    c_.start ? pair.load_key_gradients(n, c_.start->d_k, c_.start->d_v) : pair.clear_key_gradients();
    const auto add_block = [&](int64_t m, Band band) {
      for (int64_t head = first_head(kv); head < end_head(kv); ++head) {
        for_tiles(b, head, m, band, [&](int64_t, int64_t begin, const RowBounds& bounds) {
          if (pair.meets(bounds)) pair.add(head, begin, bounds, Products::keys, nullptr);
        });
      }
    };
    for (int64_t phase = 0; phase < wrap_size_ && n >= wrap_n_; ++phase) {
      const int64_t m = ((n - wrap_n_ - phase) % wrap_size_ + wrap_size_) % wrap_size_;
      if (m < wrap_m_) add_block(m, Band::wrap);
    }
    const TileRange range = readers(b, kv, n);
    for (int64_t m = range.end - 1; m >= range.begin && range.begin < range.end; --m) add_block(m, Band::causal);
    pair.store_key_gradients(n, c_.key_factor);
  }

  void query_pass(int64_t b, int64_t head, int64_t m) const {
    BackwardPair pair(c_, b, head / c_.pattern.heads_per_kv);
    for_tiles(b, head, m, Band::causal, [&](int64_t slot, int64_t, const RowBounds&) {
      std::fill_n(pair.query_gradients(slot), c_.tiles.rows * c_.tiles.width, 0.0f);
    });
    const auto add_block = [&](int64_t n, Band band) {
      pair.load_keys(n);
      for_tiles(b, head, m, band, [&](int64_t slot, int64_t begin, const RowBounds& bounds) {
        if (pair.meets(bounds)) pair.add(head, begin, bounds, Products::queries, pair.query_gradients(slot));
      });
    };
    for (int64_t phase = 0; phase < wrap_size_ && m < wrap_m_ && c_.pattern.wraps(head); ++phase) {
      const int64_t n = wrap_n_ + (m + phase) % wrap_size_;
      if (n < end_n_) add_block(n, Band::wrap);
    }
    const int64_t begin = std::max(m * block_, c_.q.begin), end = std::min((m + 1) * block_, c_.q.end);
    const TileRange range = key_tiles(c_.pattern.row(b).visible_from(begin, c_.pattern.shift_of(head)), end, block_);
    for (int64_t n = range.begin; n < range.end; ++n) add_block(n, Band::causal);
    for_tiles(b, head, m, Band::causal, [&](int64_t slot, int64_t first, const RowBounds& bounds) {
      store_rows(c_.d_q, b, head, first, first + bounds.count, pair.query_gradients(slot), c_.tiles.rows, c_.scale);
    });
  }

  const BackwardCall& c_;
  const int64_t block_, num_rows_, num_kv_, first_m_, end_m_, first_n_, end_n_;
  const Workers who_;
  int64_t wrap_m_ = 0, wrap_n_ = 0, wrap_size_ = 0;  // blocks of s2_wrap's second range: queries [0, wrap_m), keys from wrap_n on
};

}  // namespace longlora::attention
