#pragma once
// Tiles in scratch: strided rows of a tensor become fp32 panels (attention_gemm.h) and go back; bf16 is widened on the way in and rounded
// to nearest even on the way out. Positions that a view does not hold become zero rows and are not stored.
#include <cstdint>

#include "attention_gemm.h"
#include "attention_pattern.h"

namespace longlora::attention {

inline constexpr int64_t kScratchFloats = 1 << 18;  // 1 MiB a thread, whatever T, g and H

/// Scratch of this thread, 64-byte aligned, at least `floats` (at most kScratchFloats) long; content is undefined.
float* thread_scratch(int64_t floats);

/// Cuts one scratch block into pieces of whole cache lines.
class Cutter {
 public:
  explicit Cutter(float* data) : next_(data) {}
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += round_up(floats, kPanel);
    return piece;
  }

 private:
  float* next_;
};

/// Panels [Dp/16][panel_rows][16] of positions [begin, end): row i is begin + i; rows up to the next multiple of 16 are zero.
void load_rows(const View&, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels, int64_t panel_rows);

/// The same rows transposed: panels [rows/16][Dp][16], column i is begin + i.
void load_transposed(const View&, int64_t b, int64_t head, int64_t begin, int64_t end, float* panels);

/// Writes row i to position begin + i, times `factor`.
void store_rows(const View&, int64_t b, int64_t head, int64_t begin, int64_t end, const float* panels, int64_t panel_rows, float factor);

/// Writes zeros to positions [begin, end) of one head.
void store_zeros(const View&, int64_t b, int64_t head, int64_t begin, int64_t end);

/// 2^x with relative error below 2e-7; exactly 0 below -127, exactly 1 at 0; NaN stays NaN.
inline vec::F8 exp2(vec::F8 x) {
  const vec::F8 low = vec::broadcast(-127.0f), high = vec::broadcast(128.0f);
  x = low > x ? low : x;  // in this order a NaN passes
  x = high < x ? high : x;
  const vec::F8 shifted = x + 12582912.0f;            // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vec::F8 f = x - (shifted - 12582912.0f);      // -0.5 .. 0.5
  vec::F8 p = vec::broadcast(1.534581242594868e-4f);  // minimax polynomial of degree 6, relative error 2e-9
  p = p * f + 1.3399930903688073e-3f;
  p = p * f + 9.618489071726799e-3f;
  p = p * f + 5.550328642129898e-2f;
  p = p * f + 2.4022646248340607e-1f;
  p = p * f + 6.931471824645996e-1f;
  p = p * f + 1.0f;
  const vec::I8 exponent = (std::bit_cast<vec::I8>(shifted) + 127) << 23;
  return p * std::bit_cast<vec::F8>(exponent);
}

inline vec::F8 round_to_bf16(vec::F8 x) { return vec::widen(vec::narrow(x)); }

}  // namespace longlora::attention
