#pragma once
// A row in a block: which thread holds which vectors, how many of them stay in registers.
#include "common/vectors.cuh"

namespace longlora::kernels {

/// body(v, i): i the vector's first element. kVectors > 0: at most that many a thread, v < kVectors and known at compile time; 0: any
/// number, v is 0.
template <class E, int kThreads, int kVectors, class Body>
LONGLORA_DEVICE void for_vectors(int64_t width, Body body) {
  const int64_t first = int64_t{device::thread_index()} * kPer128<E>;
  if constexpr (kVectors > 0) {
    LONGLORA_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = first + v * kThreads * kPer128<E>;
      if (i < width) body(v, i);
    }
  } else {
    for (int64_t i = first; i < width; i += kThreads * kPer128<E>) body(0, i);
  }
}

template <class E>
LONGLORA_DEVICE void add_squares(const Bits128& bits, float& squares) {
  float x[kPer128<E>];
  device::unpack<E>(bits, x);
  LONGLORA_UNROLL
  for (int k = 0; k < kPer128<E>; ++k) squares += x[k] * x[k];
}

LONGLORA_DEVICE float reciprocal_rms(float squares, int64_t width, float eps) {
  return device::rsqrt(device::divide(squares, static_cast<float>(width)) + eps);
}

/// f.operator()<threads, vectors, aligned>(): the narrowest block that keeps the row in registers; rows that are too long for that, or not
/// made of whole vectors, are read twice.
template <class E, class F>
Launch with_row_shape(bool aligned, int64_t width, F f) {
  const int64_t vectors = (width + kPer128<E> - 1) / kPer128<E>;
  if (!aligned || width % kPer128<E> != 0) return f.template operator()<256, 0, false>();
  if (vectors <= 128) return f.template operator()<64, 2, true>();
  if (vectors <= 512) return f.template operator()<256, 2, true>();
  if (vectors <= 1024) return f.template operator()<256, 4, true>();
  return f.template operator()<256, 0, true>();
}

}  // namespace longlora::kernels
