#pragma once
// 16-bit elements on the host, written from their definitions.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "longlora/kernels/types.h"

namespace longlora::testing {

using kernels::ElementType;

inline uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  const uint32_t low = bits & 0xffffu, high = bits >> 16;
  return static_cast<uint16_t>(high + (low > 0x8000u || (low == 0x8000u && (high & 1u)) ? 1 : 0));  // to nearest, ties to even
}
inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
inline uint16_t to_fp16(float x) {  // 1 sign, 5 exponent, 10 fraction bits
  const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000u : 0u);
  if (std::isnan(x)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (std::abs(x) >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (x == 0.0f) return sign;
  const int exponent = std::max(std::ilogb(x), -14);
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(std::abs(x), 10 - exponent)));  // ties to even
  return static_cast<uint16_t>(sign + units +
                               (static_cast<uint32_t>(exponent + 14) << 10));  // a carry, or the hidden bit, moves the exponent up
}
inline float from_fp16(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return bits & 0x8000u ? -magnitude : magnitude;
}

inline float rounded(ElementType t, float x) {
  return t == ElementType::fp32 ? x : t == ElementType::bf16 ? from_bf16(to_bf16(x)) : from_fp16(to_fp16(x));
}
inline void put(ElementType t, unsigned char* p, float x) {
  const uint16_t half = t == ElementType::bf16 ? to_bf16(x) : t == ElementType::fp16 ? to_fp16(x) : uint16_t{0};
  if (t == ElementType::fp32)
    std::memcpy(p, &x, 4);
  else
    std::memcpy(p, &half, 2);
}
inline float get(ElementType t, const unsigned char* p) {
  float x;
  uint16_t half;
  if (t == ElementType::fp32) {
    std::memcpy(&x, p, 4);
    return x;
  }
  std::memcpy(&half, p, 2);
  return t == ElementType::bf16 ? from_bf16(half) : from_fp16(half);
}

}  // namespace longlora::testing
