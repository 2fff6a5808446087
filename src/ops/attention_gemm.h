#pragma once
// Matrix products of the CPU attention on panels: 16 columns wide, all rows of a panel one after another, so that every operand of the
// micro-kernels is read in steps of one cache line whatever the strides of the tensors are.
//
//   element (r, c) of a matrix of R rows lies at data[(c / 16) * R * 16 + r * 16 + c % 16]
//
// A micro-kernel makes M (1..6) rows x 16 columns of the product: 12 vector accumulators at M = 6, which fill the 16 registers of AVX2.
// Every element is one chain of fused multiply-adds over ascending k, so that its bits depend neither on M nor on how work is cut.
#include <array>
#include <cstdint>

#include "longlora/ops/vector_math.h"

namespace longlora::attention {

inline constexpr int64_t kPanel = 16;
inline constexpr int64_t kMaxBlock = 6;

constexpr int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

/// Rows of the next row block when `left` rows remain; 7 and 8 are cut in two because blocks of one or two rows wait for latency.
constexpr int64_t row_block(int64_t left) { return left > 8 || left == 6 ? 6 : left > 6 ? 4 : left; }

enum class Start { zero, load, scaled };  // of an accumulator: 0, C, or C times factor[row]

struct Accumulators {
  template <int M>
  static inline void begin(vec::F8 (&acc)[M][2], Start start, const float* c, const float* factor) {
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const float f = start == Start::scaled ? factor[i] : 1.0f;
      acc[i][0] = start == Start::zero ? vec::F8{} : vec::load(c + i * kPanel) * f;
      acc[i][1] = start == Start::zero ? vec::F8{} : vec::load(c + i * kPanel + 8) * f;
    }
  }
  template <int M>
  static inline void end(const vec::F8 (&acc)[M][2], float* c) {
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      vec::store(c + i * kPanel, acc[i][0]);
      vec::store(c + i * kPanel + 8, acc[i][1]);
    }
  }
};

/// C[M,16] (+)= A[M,k] B[k,16]; a_panel: distance of A's panels in floats.
template <int M, Start start>
__attribute__((noinline)) void multiply(const float* a, int64_t a_panel, int64_t k_panels, const float* b, float* c, const float* factor) {
  vec::F8 acc[M][2];
  Accumulators::begin<M>(acc, start, c, factor);
  for (int64_t panel = 0; panel < k_panels; ++panel, a += a_panel) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kPanel; ++k, b += kPanel) {
      const vec::F8 b0 = vec::load(b), b1 = vec::load(b + 8);
#pragma GCC unroll 6
      for (int i = 0; i < M; ++i) {
        acc[i][0] += a[i * kPanel + k] * b0;
        acc[i][1] += a[i * kPanel + k] * b1;
      }
    }
  }
  Accumulators::end<M>(acc, c);
}

/// C[M,16] += A[k,M]^T B[k,16]; A is M columns of one panel.
template <int M>
__attribute__((noinline)) void multiply_transposed(const float* a, int64_t k_rows, const float* b, float* c) {
  vec::F8 acc[M][2];
  Accumulators::begin<M>(acc, Start::load, c, nullptr);
#pragma GCC unroll 4
  for (int64_t k = 0; k < k_rows; ++k, a += kPanel, b += kPanel) {
    const vec::F8 b0 = vec::load(b), b1 = vec::load(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      acc[i][0] += a[i] * b0;
      acc[i][1] += a[i] * b1;
    }
  }
  Accumulators::end<M>(acc, c);
}

using Multiply = void (*)(const float*, int64_t, int64_t, const float*, float*, const float*);

/// The kernel for `rows` rows, 1..6.
template <Start start>
inline Multiply multiply_kernel(int64_t rows) {
  static constexpr std::array<Multiply, kMaxBlock + 1> kernels = {
      nullptr, multiply<1, start>, multiply<2, start>, multiply<3, start>, multiply<4, start>, multiply<5, start>, multiply<6, start>};
  return kernels[static_cast<size_t>(rows)];
}

}  // namespace longlora::attention
