#include "attention_tile.h"

#include <cstdlib>
#include <memory>

namespace longlora::attention {
namespace {

using Transposed8 = vec::F8[8];

/// Rows a[0..7] become columns.
inline void transpose8(Transposed8& a) {
  using I = vec::I8;
  Transposed8 b, c;
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shuffle(a[i], a[i + 1], I{0, 8, 1, 9, 4, 12, 5, 13});
    b[i + 1] = __builtin_shuffle(a[i], a[i + 1], I{2, 10, 3, 11, 6, 14, 7, 15});
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      c[i + 2 * j] = __builtin_shuffle(b[i + j], b[i + j + 2], I{0, 1, 8, 9, 4, 5, 12, 13});
      c[i + 2 * j + 1] = __builtin_shuffle(b[i + j], b[i + j + 2], I{2, 3, 10, 11, 6, 7, 14, 15});
    }
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = __builtin_shuffle(c[i], c[i + 4], I{0, 1, 2, 3, 8, 9, 10, 11});
    a[i + 4] = __builtin_shuffle(c[i], c[i + 4], I{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

inline void zero_row(float* panels, int64_t panel_rows, int64_t row, int64_t width) {
  for (int64_t c = 0; c < width; c += kPanel) std::fill_n(panels + c * panel_rows + row * kPanel, kPanel, 0.0f);
}

/// Strided rows defeat the hardware's prefetcher: each lies on a page of its own.
constexpr int64_t kRowsAhead = 6;

template <class T>
inline void load_row(const T* source, int64_t head_size, int64_t ahead, float* target, int64_t panel_stride) {
  int64_t c = 0;
  for (; c + kPanel <= head_size; c += kPanel, source += kPanel, target += panel_stride) {
    __builtin_prefetch(source + ahead);
    const vec::F8 x0 = vec::load(source), x1 = vec::load(source + 8);
    vec::store(target, x0);
    vec::store(target + 8, x1);
  }
  if (c == head_size) return;
  const int64_t left = head_size - c;
  vec::store(target, left >= 8 ? vec::load(source) : vec::load(source, vec::Part{left}));
  vec::store(target + 8, left > 8 ? vec::load(source + 8, vec::Part{left - 8}) : vec::F8{});
}

template <class T>
void load_rows_as(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels, int64_t panel_rows) {
  const int64_t width = round_up(x.head_size, kPanel), rows = std::min(round_up(end - begin, kPanel), panel_rows);
  const int64_t first = std::clamp(x.begin - begin, int64_t{0}, rows), last = std::clamp(std::min(end, x.end) - begin, first, rows);
  for (int64_t row = 0; row < first; ++row) zero_row(panels, panel_rows, row, width);
  for (int64_t row = last; row < rows; ++row) zero_row(panels, panel_rows, row, width);
  if (first == last) return;
  const T* source = x.at<const T>(b, begin + first, head);
  for (int64_t row = first; row < last; ++row, source += x.token_stride) {
    load_row(source, x.head_size, std::min(kRowsAhead, last - 1 - row) * x.token_stride, panels + row * kPanel, panel_rows * kPanel);
  }
}

/// Eight rows (nullptr: zeros) become columns of the panel at `target`.
template <class T>
inline void load_columns(const T* const (&rows)[8], int64_t head_size, int64_t ahead, float* target) {
  for (int64_t c = 0; c < round_up(head_size, kPanel); c += 8, target += 8 * kPanel) {
    Transposed8 block;
    const int64_t columns = std::clamp<int64_t>(head_size - c, 0, 8);
    for (int64_t i = 0; i < 8; ++i) {
      if (rows[i] == nullptr || columns == 0) {
        block[i] = vec::F8{};
      } else {
        if (c % kPanel == 0) __builtin_prefetch(rows[i] + c + ahead);
        block[i] = columns == 8 ? vec::load(rows[i] + c) : vec::load(rows[i] + c, vec::Part{columns});
      }
    }
    transpose8(block);
    for (int64_t i = 0; i < 8; ++i) vec::store(target + i * kPanel, block[i]);
  }
}

template <class T>
void load_transposed_as(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels) {
  const int64_t width = round_up(x.head_size, kPanel), held_end = std::min(end, x.end);
  for (int64_t row = 0, rows = round_up(end - begin, kPanel); row < rows; row += 8) {
    const T* sources[8];
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t position = begin + row + i;
      sources[i] = position >= x.begin && position < held_end ? x.at<const T>(b, position, head) : nullptr;
    }
    const int64_t ahead = begin + row + 16 <= held_end ? 8 * x.token_stride : 0;
    load_columns(sources, x.head_size, ahead, panels + row / kPanel * width * kPanel + row % kPanel);
  }
}

template <class T>
void store_rows_as(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, const float* panels, int64_t panel_rows,
                   float factor) {
  const int64_t first = std::max(begin, x.begin), last = std::min(end, x.end);
  for (int64_t position = first; position < last; ++position) {
    T* target = x.at<T>(b, position, head);
    const float* source = panels + (position - begin) * kPanel;
    int64_t c = 0;
    for (; c + kPanel <= x.head_size; c += kPanel, source += panel_rows * kPanel) {
      vec::store(target + c, vec::load(source) * factor);
      vec::store(target + c + 8, vec::load(source + 8) * factor);
    }
    vec::for_lanes(x.head_size - c, [&](int64_t i, auto lanes) { vec::store(target + c + i, vec::load(source + i) * factor, lanes); });
  }
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};

}  // namespace

float* thread_scratch(int64_t floats) {
  thread_local std::unique_ptr<float, Free> block;
  thread_local int64_t held = 0;
  LONGLORA_INVARIANT(floats <= kScratchFloats);
  if (floats > held) {
    block.reset();
    block.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(round_up(floats, kPanel)) * sizeof(float))));
    if (!block) throw std::bad_alloc();
    held = floats;
  }
  return block.get();
}

void load_rows(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels, int64_t panel_rows) {
  x.is_bf16 ? load_rows_as<c10::BFloat16>(x, b, head, begin, end, panels, panel_rows)
            : load_rows_as<float>(x, b, head, begin, end, panels, panel_rows);
}

void load_transposed(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels) {
  x.is_bf16 ? load_transposed_as<c10::BFloat16>(x, b, head, begin, end, panels) : load_transposed_as<float>(x, b, head, begin, end, panels);
}

void store_rows(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end, const float* panels, int64_t panel_rows, float factor) {
  x.is_bf16 ? store_rows_as<c10::BFloat16>(x, b, head, begin, end, panels, panel_rows, factor)
            : store_rows_as<float>(x, b, head, begin, end, panels, panel_rows, factor);
}

void store_zeros(const View& x, int64_t b, int64_t head, int64_t begin, int64_t end) {
  for (int64_t position = std::max(begin, x.begin); position < std::min(end, x.end); ++position) {
    if (x.is_bf16) {
      std::fill_n(x.at<c10::BFloat16>(b, position, head), x.head_size, c10::BFloat16(0.0f));
    } else {
      std::fill_n(x.at<float>(b, position, head), x.head_size, 0.0f);
    }
  }
}

}  // namespace longlora::attention
