#include "attention_backward_pair.h"

#include <numbers>

namespace longlora::attention {
namespace {

template <class T>
float dot_as(const View& x, const View& y, int64_t b, int64_t position, int64_t head) {
  const T *left = x.at<const T>(b, position, head), *right = y.at<const T>(b, position, head);
  vec::F8 sum{};
  vec::for_lanes(x.head_size, [&](int64_t i, auto lanes) { sum += vec::load(left + i, lanes) * vec::load(right + i, lanes); });
  return vec::sum(sum);
}

}  // namespace

float dot(const View& x, const View& y, int64_t b, int64_t position, int64_t head) {
  return x.is_bf16 ? dot_as<c10::BFloat16>(x, y, b, position, head) : dot_as<float>(x, y, b, position, head);
}

BackwardPair::BackwardPair(const BackwardCall& call, int64_t b, int64_t kv_head) : c_(call), b_(b), kv_(kv_head) {
  const BackwardTiles& t = call.tiles;
  Cutter cut(thread_scratch(t.scratch_floats()));
  k_transposed_ = cut.take(t.block * t.width);
  v_transposed_ = cut.take(t.block * t.width);
  k_ = cut.take(t.block * t.width);
  d_k_ = cut.take(t.block * t.width);
  d_v_ = cut.take(t.block * t.width);
  q_ = cut.take(t.rows * t.width);
  d_o_ = cut.take(t.rows * t.width);
  d_q_ = cut.take(t.rows * t.width);
  p_ = cut.take(t.rows * t.keys);
  d_s_ = cut.take(t.rows * t.keys);
  lse2_ = cut.take(t.rows);
  delta_ = cut.take(t.rows);
}

void BackwardPair::load_keys(int64_t n) {
  key_begin_ = n * c_.tiles.block;
  key_end_ = std::min(key_begin_ + c_.tiles.block, c_.k.end);
  load_transposed(c_.k, b_, kv_, key_begin_, key_end_, k_transposed_);
  load_transposed(c_.v, b_, kv_, key_begin_, key_end_, v_transposed_);
  load_rows(c_.k, b_, kv_, key_begin_, key_end_, k_, c_.tiles.block);
}

void BackwardPair::clear_key_gradients() {
  std::fill_n(d_k_, c_.tiles.block * c_.tiles.width, 0.0f);
  std::fill_n(d_v_, c_.tiles.block * c_.tiles.width, 0.0f);
}

void BackwardPair::load_key_gradients(int64_t n, const View& d_k, const View& d_v) {
  const int64_t begin = n * c_.tiles.block, end = begin + c_.tiles.block;
  load_rows(d_k, b_, kv_, begin, end, d_k_, c_.tiles.block);
  load_rows(d_v, b_, kv_, begin, end, d_v_, c_.tiles.block);
}

void BackwardPair::store_key_gradients(int64_t n, float factor_of_d_k) const {
  const int64_t begin = n * c_.tiles.block, end = begin + c_.tiles.block;
  store_rows(c_.d_k, b_, kv_, begin, end, d_k_, c_.tiles.block, factor_of_d_k);
  store_rows(c_.d_v, b_, kv_, begin, end, d_v_, c_.tiles.block, 1.0f);
}

void BackwardPair::load_queries(int64_t head, int64_t begin, int64_t end) {
  load_rows(c_.q, b_, head, begin, end, q_, c_.tiles.rows);
  load_rows(c_.d_o, b_, head, begin, end, d_o_, c_.tiles.rows);
  const float* lse = c_.lse.data_ptr<float>() + b_ * c_.lse.stride(0) + head * c_.lse.stride(1);
  for (int64_t row = 0; row < end - begin; ++row) {
    lse2_[row] = lse[(begin + row - c_.q.begin) * c_.lse.stride(2)] * std::numbers::log2e_v<float>;
    delta_[row] = c_.delta_at(b_, head, begin + row);
  }
}

void BackwardPair::add(int64_t head, int64_t begin, const RowBounds& bounds, Products products, float* d_q) {
  load_queries(head, begin, begin + bounds.count);
  for (int64_t offset = 0; offset < key_end_ - key_begin_; offset += c_.tiles.keys) {
    const std::span<const Block> blocks = find_blocks(bounds, offset);
    if (blocks.empty()) continue;
    products_of(blocks, q_, k_transposed_, offset, p_);
    products_of(blocks, d_o_, v_transposed_, offset, d_s_);
    soften(blocks, bounds, offset);
    if (products != Products::queries) add_key_gradients(blocks, offset);
    if (products != Products::keys) add_query_gradients(blocks, offset, d_q);
  }
}

std::span<const BackwardPair::Block> BackwardPair::find_blocks(const RowBounds& bounds, int64_t key_offset) {
  const int64_t first_key = key_begin_ + key_offset, num_keys = std::min(c_.tiles.keys, key_end_ - first_key);
  size_t count = 0;
  for (int64_t row = 0, rows; row < bounds.count; row += rows) {
    rows = row_block(bounds.count - row);
    const int64_t from = std::max(bounds.from[row] - first_key, int64_t{0});
    const int64_t to = std::min(bounds.to[row + rows - 1] - first_key, num_keys);
    if (from < to) blocks_[count++] = {row, rows, from / kPanel, (to + kPanel - 1) / kPanel};
  }
  return {blocks_, count};
}

/// out[row, key] = a[row] . b[key], for the panels that the blocks see.
void BackwardPair::products_of(std::span<const Block> blocks, const float* a, const float* b_transposed, int64_t key_offset, float* out) {
  const float* b = b_transposed + key_offset * c_.tiles.width;
  for (int64_t panel = blocks.front().first_panel; panel < blocks.back().end_panel; ++panel) {
    for (const Block& block : blocks) {
      if (panel < block.first_panel || panel >= block.end_panel) continue;
      multiply_kernel<Start::zero>(block.rows)(a + block.row * kPanel, c_.tiles.rows * kPanel, c_.tiles.panels(),
                                               b + panel * c_.tiles.width * kPanel, out + (panel * c_.tiles.rows + block.row) * kPanel,
                                               nullptr);
    }
  }
}

/// Scores become probabilities, d_o . v becomes d_s; both are zero outside the bounds.
void BackwardPair::soften(std::span<const Block> blocks, const RowBounds& bounds, int64_t key_offset) {
  const int64_t first_key = key_begin_ + key_offset;
  for (const Block& block : blocks) {
    for (int64_t row = block.row; row < block.row + block.rows; ++row) {
      soften_row(block, row, bounds.from[row] - first_key, bounds.to[row] - first_key);
    }
  }
}

void BackwardPair::soften_row(const Block& block, int64_t row, int64_t from, int64_t to) {
  const float lse2 = lse2_[row], delta = delta_[row];
  for (int64_t panel = block.first_panel; panel < block.end_panel; ++panel) {
    const int64_t at = (panel * c_.tiles.rows + row) * kPanel;
    for (int64_t i = at; i < at + kPanel; i += 8) {
      const vec::F8 p = exp2(vec::load(p_ + i) * c_.to_base2 - lse2);
      const vec::F8 d_s = p * (vec::load(d_s_ + i) - delta);
      vec::store(p_ + i, c_.q.is_bf16 ? round_to_bf16(p) : p);
      vec::store(d_s_ + i, c_.q.is_bf16 ? round_to_bf16(d_s) : d_s);
    }
  }
  const auto clear = [&](int64_t begin, int64_t end) {
    for (int64_t key = begin; key < end; ++key) {
      const int64_t at = (key / kPanel * c_.tiles.rows + row) * kPanel + key % kPanel;
      p_[at] = d_s_[at] = 0.0f;
    }
  };
  const int64_t begin = block.first_panel * kPanel, end = block.end_panel * kPanel;
  clear(begin, std::min(from, end));
  clear(std::max(to, begin), end);
}

/// The rows that computed a panel of keys are consecutive: bounds never decrease.
void BackwardPair::add_key_gradients(std::span<const Block> blocks, int64_t key_offset) {
  size_t first = 0, last = 0;
  for (int64_t panel = blocks.front().first_panel; panel < blocks.back().end_panel; ++panel) {
    while (first < blocks.size() && blocks[first].end_panel <= panel) ++first;
    while (last < blocks.size() && blocks[last].first_panel <= panel) ++last;
    if (first >= last) continue;
    const int64_t begin = blocks[first].row, end = blocks[last - 1].row + blocks[last - 1].rows;
    const int64_t weights = panel * c_.tiles.rows * kPanel, out = (key_offset + panel * kPanel) * kPanel;
    add_transposed(begin, end, p_ + weights, d_o_, d_v_ + out);
    add_transposed(begin, end, d_s_ + weights, q_, d_k_ + out);
  }
}

/// out[16 keys, D] += weights[rows, 16 keys]^T rows[rows, D]; 16 keys are blocks of 6, 5 and 5.
void BackwardPair::add_transposed(int64_t first_row, int64_t end_row, const float* weights, const float* rows, float* out) {
  const int64_t count = end_row - first_row, offset = first_row * kPanel;
  for (int64_t panel = 0; panel < c_.tiles.panels(); ++panel) {
    const float* b = rows + panel * c_.tiles.rows * kPanel + offset;
    float* c = out + panel * c_.tiles.block * kPanel;
    multiply_transposed<6>(weights + offset, count, b, c);
    multiply_transposed<5>(weights + offset + 6, count, b, c + 6 * kPanel);
    multiply_transposed<5>(weights + offset + 11, count, b, c + 11 * kPanel);
  }
}

void BackwardPair::add_query_gradients(std::span<const Block> blocks, int64_t key_offset, float* d_q) {
  for (int64_t panel = 0; panel < c_.tiles.panels(); ++panel) {
    const float* keys = k_ + (panel * c_.tiles.block + key_offset) * kPanel;
    for (const Block& block : blocks) {
      multiply_kernel<Start::load>(block.rows)(d_s_ + (block.first_panel * c_.tiles.rows + block.row) * kPanel, c_.tiles.rows * kPanel,
                                               block.end_panel - block.first_panel, keys + block.first_panel * kPanel * kPanel,
                                               d_q + (panel * c_.tiles.rows + block.row) * kPanel, nullptr);
    }
  }
}

}  // namespace longlora::attention
