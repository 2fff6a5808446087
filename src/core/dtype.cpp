#include "longlora/core/dtype.h"

#include <fmt/format.h>

#include <cmath>

#include "longlora/core/error.h"

namespace longlora {

namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  size_t bytes;
  double rounding;   // 0: not a floating-point type
};
constexpr DTypeRow kDTypes[] = {
    {DType::f64, "F64", 8, 0x1p-53}, {DType::f32, "F32", 4, 0x1p-24}, {DType::f16, "F16", 2, 0x1p-11}, {DType::bf16, "BF16", 2, 0x1p-8},
    {DType::i64, "I64", 8, 0},       {DType::i32, "I32", 4, 0},       {DType::i16, "I16", 2, 0},       {DType::i8, "I8", 1, 0},
    {DType::u8, "U8", 1, 0},         {DType::boolean, "BOOL", 1, 0},
};

constexpr bool rows_in_order() {
  for (size_t i = 0; i < std::size(kDTypes); ++i)
    if (kDTypes[i].dtype != static_cast<DType>(i)) return false;
  return true;
}
static_assert(rows_in_order());

const DTypeRow& row_of(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

[[noreturn]] void fail_overflow(std::string_view operation, uint64_t a, uint64_t b, std::string_view what) {
  fail(ErrorKind::data, fmt::format("{} {} {} does not fit in 64 bits", a, operation, b), std::string(what),
       "the sizes in this file cannot be right; replace the file");
}

}  // namespace

size_t size_of(DType dtype) { return row_of(dtype).bytes; }
std::string_view name_of(DType dtype) { return row_of(dtype).name; }

std::optional<DType> dtype_of(std::string_view name) {
  for (const DTypeRow& row : kDTypes)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

double rounding_unit(DType dtype) {
  LONGLORA_INVARIANT(row_of(dtype).rounding > 0);
  return row_of(dtype).rounding;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

uint64_t checked_mul(uint64_t a, uint64_t b, std::string_view what) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail_overflow("x", a, b, what);
  return product;
}

uint64_t checked_add(uint64_t a, uint64_t b, std::string_view what) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) fail_overflow("+", a, b, what);
  return sum;
}

uint64_t num_elements(const Shape& shape) {
  uint64_t product = 1;
  for (const int64_t dimension : shape) {
    LONGLORA_CHECK(dimension >= 0, data, fmt::format("a dimension is {}, expected 0 or more", dimension), "shape " + to_string(shape),
                   "the sizes in this file cannot be right; replace the file");
    product = checked_mul(product, static_cast<uint64_t>(dimension), "shape " + to_string(shape));
  }
  return product;
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;   // subnormal or zero: exact in fp32
    return sign ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide_exponent << 23 | fraction << 13);
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));   // NaN, made quiet
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);   // from 65520, halfway to 2^16
  if (magnitude < 0x38800000u) {                                                // below 2^-14: a multiple of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | rounded >> 13);
}

}  // namespace longlora
