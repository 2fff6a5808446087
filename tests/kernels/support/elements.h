#pragma once
// 16-bit elements on the host, written from their definitions.
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
inline uint16_t to_fp16(float x) { return std::bit_cast<uint16_t>(static_cast<_Float16>(x)); }
inline float from_fp16(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }

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
