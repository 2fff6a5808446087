#pragma once
// Element types and shapes of tensors in files and in memory; bf16/fp16 conversions (round to nearest even).

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

enum class DType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

size_t size_of(DType);                                   // bytes of one element
std::string_view name_of(DType);                         // safetensors spelling: F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL
std::optional<DType> dtype_of(std::string_view name);    // inverse; nullopt when unknown
double rounding_unit(DType);                             // half an ulp at 1: f64 2^-53, f32 2^-24, f16 2^-11, bf16 2^-8 (f* only)

using Shape = std::vector<int64_t>;
std::string to_string(const Shape&);                     // "[4096, 11008]"

/// a*b and a+b; throw ErrorKind::data naming `what` on overflow of 64 bits.
uint64_t checked_mul(uint64_t a, uint64_t b, std::string_view what);
uint64_t checked_add(uint64_t a, uint64_t b, std::string_view what);
/// Product of the (non-negative) dimensions; 1 for rank 0. Overflow or a negative dimension: ErrorKind::data.
uint64_t num_elements(const Shape&);

/// bf16 is the upper half of fp32.
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
inline uint16_t float_to_bf16(float value) {             // round to nearest even; NaN stays NaN (quiet)
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);                      // round to nearest even; overflow gives infinity

}  // namespace longlora
