// Causal attention inside segments, forward (docs/attention.md section 4).
//
// A task owns one tile of query rows of up to four heads that share a KV head and a pattern; every key tile is packed once for all of
// them. Key tiles go from right to left with a running maximum. Inside a tile each block of six rows touches just the panels of 16 keys
// it can see, so that the time follows the allowed pairs. Bits of a row depend on the key tiles (head size) alone.
#include <cmath>
#include <limits>
#include <numbers>
#include <span>

#include "attention_tasks.h"
#include "attention_tile.h"
#include "ops/dispatch.h"

namespace longlora {
namespace attention {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kChunkRows = 24;  // scores of 24 rows and a panel of keys stay in the first-level cache

/// Tile sizes by head size alone, so that scratch stays below 1 MiB. Packing a tile of keys pays off over `rows` query rows of all heads
/// of a task together; how many of them belong to one head changes no bit.
struct ForwardTiles {
  explicit ForwardTiles(int64_t head_size) : width(round_up(head_size, kPanel)) {
    rows = width <= 64 ? 288 : width <= 128 ? 192 : width <= 256 ? 96 : width <= 512 ? 48 : width <= 1024 ? 24 : 12;
    keys = width <= 256 ? 128 : width <= 512 ? 64 : width <= 1024 ? 32 : 16;
    heads = width <= 64 ? 4 : width <= 128 ? 2 : 1;
  }
  int64_t panels() const { return width / kPanel; }
  int64_t rows_per_head(int64_t num_heads) const { return rows / num_heads; }
  int64_t scratch_floats() const {
    const int64_t held_rows = rows + heads * kPanel;  // every head's rows are rounded up to a whole panel
    return held_rows * (2 * width + 2) + 2 * keys * width + kChunkRows * keys + 16 * kPanel;
  }

  int64_t width, rows, keys, heads;
};

struct HeadSpan {
  int64_t first, count, kv;
};  // query heads of one KV head and one pattern
struct Tile {
  HeadSpan span;
  int64_t begin, end;
};

std::vector<HeadSpan> head_spans(const Pattern& pattern, int64_t num_heads, int64_t most) {
  std::vector<HeadSpan> spans;
  for (int64_t head = 0; head < num_heads; ++head) {
    const int64_t kv = head / pattern.heads_per_kv;
    HeadSpan* last = spans.empty() ? nullptr : &spans.back();
    const bool joins = last && last->kv == kv && last->count < most && pattern.shift_of(last->first) == pattern.shift_of(head);
    joins ? void(++last->count) : spans.push_back({head, 1, kv});
  }
  return spans;
}

/// All tiles of a row, latest first: they see most keys, and the longest tasks should not come last.
std::vector<Tile> query_tiles_of(const std::vector<HeadSpan>& spans, const ForwardTiles& tiles, const View& q) {
  std::vector<Tile> found;
  for (const HeadSpan& span : spans) {
    const int64_t rows = tiles.rows_per_head(span.count);
    for (int64_t begin = q.begin / rows * rows; begin < q.end; begin += rows) {
      found.push_back({span, std::max(begin, q.begin), std::min(begin + rows, q.end)});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Tile& a, const Tile& b) { return a.begin > b.begin; });
  return found;
}

struct ForwardCall {
  const Pattern& pattern;
  View q, k, v, o;
  const at::Tensor& lse;
  ForwardTiles tiles;
  float to_base2;  // scale * log2(e), rounded once
};

/// One head's rows of a query tile: q, the output before its division, running maximum and sum.
struct HeadState {
  float *q, *acc, *top, *sum;
};

class ForwardTask {
 public:
  ForwardTask(const ForwardCall& call, int64_t b, const Tile& tile)
      : c_(call),
        b_(b),
        span_(tile.span),
        begin_(tile.begin),
        end_(tile.end),
        panel_rows_(round_up(call.tiles.rows_per_head(tile.span.count), kPanel)) {
    Cutter cut(thread_scratch(c_.tiles.scratch_floats()));
    for (int64_t i = 0; i < span_.count; ++i) {
      const int64_t floats = panel_rows_ * c_.tiles.width;
      states_[i] = {cut.take(floats), cut.take(floats), cut.take(panel_rows_), cut.take(panel_rows_)};
    }
    keys_ = cut.take(c_.tiles.keys * c_.tiles.width);
    values_ = cut.take(c_.tiles.keys * c_.tiles.width);
    scores_ = cut.take(kChunkRows * c_.tiles.keys);
  }

  void run() {
    for (int64_t i = 0; i < span_.count; ++i) start(i);
    const RowMap map = c_.pattern.row(b_);
    if (c_.pattern.wraps(span_.first)) visit(row_bounds(c_.pattern, map, Shift::half_group, Band::wrap, begin_, end_));
    visit(row_bounds(c_.pattern, map, c_.pattern.shift_of(span_.first), Band::causal, begin_, end_));
    for (int64_t i = 0; i < span_.count; ++i) finish(i);
  }

 private:
  void start(int64_t i) {
    HeadState& s = states_[i];
    load_rows(c_.q, b_, span_.first + i, begin_, end_, s.q, panel_rows_);
    std::fill_n(s.acc, panel_rows_ * c_.tiles.width, 0.0f);
    std::fill_n(s.top, panel_rows_, kMinusInfinity);
    std::fill_n(s.sum, panel_rows_, 0.0f);
  }

  void visit(const RowBounds& bounds) {
    if (bounds.empty()) return;
    const TileRange range = key_tiles(bounds.first_key(), bounds.end_key(), c_.tiles.keys);
    for (int64_t n = range.end - 1; n >= range.begin; --n) {
      const int64_t key_begin = n * c_.tiles.keys, key_end = std::min(key_begin + c_.tiles.keys, bounds.end_key());
      load_transposed(c_.k, b_, span_.kv, key_begin, key_end, keys_);
      load_rows(c_.v, b_, span_.kv, key_begin, key_end, values_, c_.tiles.keys);
      for (int64_t i = 0; i < span_.count; ++i) {
        for (int64_t row = 0; row < bounds.count; row += kChunkRows) {
          chunk(states_[i], bounds, key_begin, row, std::min(row + kChunkRows, bounds.count));
        }
      }
    }
  }

  struct Block {
    int64_t row, rows, first_panel, end_panel;
  };  // of six rows; panels of keys that some row of it sees

  void chunk(HeadState& s, const RowBounds& bounds, int64_t key_begin, int64_t begin, int64_t end) {
    Block blocks[kChunkRows];
    int64_t num_blocks = 0, first = c_.tiles.keys, last = 0;
    for (int64_t row = begin, rows; row < end; row += rows) {
      rows = row_block(end - row);
      const int64_t from = std::max(bounds.from[row] - key_begin, int64_t{0});
      const int64_t to = std::min(bounds.to[row + rows - 1] - key_begin, c_.tiles.keys);
      if (from >= to) continue;
      blocks[num_blocks++] = {row, rows, from / kPanel, (to + kPanel - 1) / kPanel};
      first = std::min(first, from / kPanel);
      last = std::max(last, (to + kPanel - 1) / kPanel);
    }
    const std::span<const Block> used(blocks, static_cast<size_t>(num_blocks));
    score(s, used, begin, first, last);
    float factors[kChunkRows + 8];
    for (const Block& block : used) soften(s, bounds, key_begin, block, begin, factors);
    add_values(s, used, begin, factors);
  }

  void score(const HeadState& s, std::span<const Block> blocks, int64_t begin, int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      for (const Block& block : blocks) {
        if (panel < block.first_panel || panel >= block.end_panel) continue;
        multiply_kernel<Start::zero>(block.rows)(s.q + block.row * kPanel, panel_rows_ * kPanel, c_.tiles.panels(),
                                                 keys_ + panel * c_.tiles.width * kPanel, score_at(panel, block.row - begin), nullptr);
      }
    }
  }

  /// Scores of a block become probabilities relative to the running maximum; factors: what the rows' past shrinks by.
  void soften(HeadState& s, const RowBounds& bounds, int64_t key_begin, const Block& block, int64_t begin, float* factors) {
    for (int64_t row = block.row; row < block.row + block.rows; ++row) {
      const int64_t local = row - begin;
      mask(block, local, bounds.from[row] - key_begin, bounds.to[row] - key_begin);
      vec::F8 top8 = vec::broadcast(kMinusInfinity);
      for (int64_t panel = block.first_panel; panel < block.end_panel; ++panel) {
        const float* p = score_at(panel, local);
        top8 = vec::max(top8, vec::max(vec::load(p), vec::load(p + 8)));
      }
      const float top = std::max(s.top[row], vec::max_of(top8));
      const float base = top == kMinusInfinity ? 0.0f : top;  // a row may be wholly masked in its first tile
      const float factor = exp2(vec::broadcast((s.top[row] - base) * c_.to_base2))[0];
      const float sum = probabilities(block, local, base * c_.to_base2);
      s.sum[row] = s.sum[row] * factor + sum;
      s.top[row] = top;
      factors[local] = factor;
    }
  }

  void mask(const Block& block, int64_t local, int64_t from, int64_t to) {
    const auto fill = [&](int64_t begin, int64_t end) {
      for (int64_t key = begin; key < end; ++key) score_at(key / kPanel, local)[key % kPanel] = kMinusInfinity;
    };
    const int64_t begin = block.first_panel * kPanel, end = block.end_panel * kPanel;
    fill(begin, std::min(from, end));
    fill(std::max(to, begin), end);
  }

  float probabilities(const Block& block, int64_t local, float base) {
    vec::F8 sum0{}, sum1{};
    for (int64_t panel = block.first_panel; panel < block.end_panel; ++panel) {
      float* p = score_at(panel, local);
      const vec::F8 p0 = exp2(vec::load(p) * c_.to_base2 - base), p1 = exp2(vec::load(p + 8) * c_.to_base2 - base);
      sum0 += p0;  // from unrounded probabilities
      sum1 += p1;
      vec::store(p, c_.q.is_bf16 ? round_to_bf16(p0) : p0);
      vec::store(p + 8, c_.q.is_bf16 ? round_to_bf16(p1) : p1);
    }
    return vec::sum(sum0 + sum1);
  }

  void add_values(HeadState& s, std::span<const Block> blocks, int64_t begin, const float* factors) {
    for (int64_t panel = 0; panel < c_.tiles.panels(); ++panel) {
      const float* values = values_ + panel * c_.tiles.keys * kPanel;
      for (const Block& block : blocks) {
        multiply_kernel<Start::scaled>(block.rows)(score_at(block.first_panel, block.row - begin), kChunkRows * kPanel,
                                                   block.end_panel - block.first_panel, values + block.first_panel * kPanel * kPanel,
                                                   s.acc + (panel * panel_rows_ + block.row) * kPanel, factors + block.row - begin);
      }
    }
  }

  void finish(int64_t i) {
    HeadState& s = states_[i];
    const int64_t head = span_.first + i;
    float* lse = c_.lse.data_ptr<float>() + b_ * c_.lse.stride(0) + head * c_.lse.stride(1);
    for (int64_t row = 0; row < end_ - begin_; ++row) {
      for (int64_t panel = 0; panel < c_.tiles.panels(); ++panel) {
        float* acc = s.acc + (panel * panel_rows_ + row) * kPanel;
        vec::store(acc, vec::load(acc) / s.sum[row]);
        vec::store(acc + 8, vec::load(acc + 8) / s.sum[row]);
      }
      lse[(begin_ + row - c_.q.begin) * c_.lse.stride(2)] = s.top[row] * c_.to_base2 * std::numbers::ln2_v<float> + std::log(s.sum[row]);
    }
    store_rows(c_.o, b_, head, begin_, end_, s.acc, panel_rows_, 1.0f);
  }

  float* score_at(int64_t panel, int64_t local_row) { return scores_ + (panel * kChunkRows + local_row) * kPanel; }

  const ForwardCall& c_;
  int64_t b_;
  HeadSpan span_;
  int64_t begin_, end_, panel_rows_;
  HeadState states_[4];
  float *keys_, *values_, *scores_;
};

}  // namespace
}  // namespace attention

void s2_attention_forward(const AttentionLayout& layout, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                          at::Tensor& o_BTHD, at::Tensor& lse_BHT) {
  using namespace attention;
  check_call(layout, q_BTHD, k_BTKD, v_BTKD, o_BTHD, lse_BHT);
  if constexpr (kWithKernels) {
    if (!q_BTHD.is_cpu()) return device::s2_attention_forward(layout, q_BTHD, k_BTKD, v_BTKD, o_BTHD, lse_BHT);
  }
  require_host(q_BTHD, "s2_attention_forward");
  const Pattern pattern(layout, q_BTHD.size(2), k_BTKD.size(2));
  const double scale = 1.0 / std::sqrt(static_cast<double>(q_BTHD.size(3)));
  const ForwardCall call{pattern,
                         View(q_BTHD, layout.q_begin),
                         View(k_BTKD, layout.k_begin),
                         View(v_BTKD, layout.k_begin),
                         View(o_BTHD, layout.q_begin),
                         lse_BHT,
                         ForwardTiles(q_BTHD.size(3)),
                         static_cast<float>(scale * std::numbers::log2e)};
  const std::vector<Tile> tiles = query_tiles_of(head_spans(pattern, q_BTHD.size(2), call.tiles.heads), call.tiles, call.q);
  const int64_t num_tiles = static_cast<int64_t>(tiles.size()), num_rows = q_BTHD.size(0);
  const Workers who = workers_for(q_BTHD.numel() * k_BTKD.size(1));
  run_tasks(who, num_tiles * num_rows, [&](int64_t i) { ForwardTask(call, i % num_rows, tiles[static_cast<size_t>(i / num_rows)]).run(); });
}

}  // namespace longlora
