#pragma once
// Eight-lane fp32 arithmetic for the elementwise passes, by GCC's vector extension (no intrinsics, no framework math).
//
// Loads widen bf16 to fp32, stores round to nearest even. `for_lanes` runs a body over n elements: whole vectors first, then one partial
// vector (missing lanes are zero and are not stored), so that every loop is written once and any n works.
// Results do not depend on alignment or on the thread that runs the loop.
#include <c10/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace longlora::vec {

inline constexpr int64_t kLanes = 8;
using F8 = float __attribute__((vector_size(32)));
using I8 = int32_t __attribute__((vector_size(32)));
using U8 = uint32_t __attribute__((vector_size(32)));
using H8 = uint16_t __attribute__((vector_size(16)));

struct Whole {};  // all eight lanes
struct Part {
  int64_t count;
};  // the first `count` lanes, 1..7

inline F8 broadcast(float x) { return F8{x, x, x, x, x, x, x, x}; }

inline F8 widen(H8 bits) { return std::bit_cast<F8>(__builtin_convertvector(bits, U8) << 16); }
inline H8 narrow(F8 x) {  // round to nearest even; NaN stays NaN
  const U8 bits = std::bit_cast<U8>(x);
  const U8 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U8 quiet = (bits >> 16) | 0x40u;
  const U8 is_nan = std::bit_cast<U8>((bits & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), H8);
}

inline F8 load(const float* p, Whole = {}) {
  F8 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline F8 load(const float* p, Part part) {
  F8 v{};
  std::memcpy(&v, p, static_cast<size_t>(part.count) * sizeof(float));
  return v;
}
inline F8 load(const c10::BFloat16* p, Whole = {}) {
  H8 v;
  std::memcpy(&v, p, sizeof v);
  return widen(v);
}
inline F8 load(const c10::BFloat16* p, Part part) {
  H8 v{};
  std::memcpy(&v, p, static_cast<size_t>(part.count) * sizeof(uint16_t));
  return widen(v);
}
inline void store(float* p, F8 v, Whole = {}) { std::memcpy(p, &v, sizeof v); }
inline void store(float* p, F8 v, Part part) { std::memcpy(p, &v, static_cast<size_t>(part.count) * sizeof(float)); }
inline void store(c10::BFloat16* p, F8 v, Whole = {}) {
  const H8 bits = narrow(v);
  std::memcpy(static_cast<void*>(p), &bits, sizeof bits);
}
inline void store(c10::BFloat16* p, F8 v, Part part) {
  const H8 bits = narrow(v);
  std::memcpy(static_cast<void*>(p), &bits, static_cast<size_t>(part.count) * sizeof(uint16_t));
}

/// body(index of the first element, Whole or Part)
template <class Body>
inline void for_lanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

inline float sum(F8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
inline F8 select(I8 condition, F8 yes, F8 no) { return condition ? yes : no; }
inline F8 max(F8 a, F8 b) { return select(a > b, a, b); }
inline F8 min(F8 a, F8 b) { return select(a < b, a, b); }
inline float max_of(F8 v) {
  float m = v[0];
  for (int i = 1; i < 8; ++i) m = m > v[i] ? m : v[i];
  return m;
}
inline F8 sqrt(F8 v) {
#if defined(__AVX__)
  return __builtin_ia32_sqrtps256(v);
#else
  for (int i = 0; i < 8; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

/// e^x with relative error below 2e-7; NaN stays NaN; x below -87.3 gives about 1e-38, above 88.3 about 3e38.
inline F8 exp(F8 x) {
  const F8 clamped = select(x != x, x, min(max(x, broadcast(-87.3f)), broadcast(88.3f)));
  const F8 magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const F8 shifted = clamped * 1.44269504088896341f + magic;
  const F8 n = shifted - magic;
  const F8 r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
  F8 p = broadcast(1.9875691500e-4f);                               // Cephes expf coefficients
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I8 exponent = std::bit_cast<I8>(shifted) << 23;  // the rounded n, moved into the exponent field
  return std::bit_cast<F8>(std::bit_cast<I8>(p) + exponent);
}
inline F8 sigmoid(F8 x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace longlora::vec
