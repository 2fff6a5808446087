// Element types: every 16-bit pattern there and back, rounding against a search for the nearest value, checked sizes.

#include "longlora/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/error_of.h"

namespace longlora {
namespace {

struct Half {
  const char* name;
  float (*wide)(uint16_t);
  uint16_t (*narrow)(float);
  int exponent_bits, fraction_bits;
};
const Half kHalves[] = {{"f16", f16_to_float, float_to_f16, 5, 10}, {"bf16", bf16_to_float, float_to_bf16, 8, 7}};

/// Value of a pattern from the definition of IEEE 754 binary formats.
double by_definition(uint16_t bits, const Half& half) {
  const int exponent = bits >> half.fraction_bits & ((1 << half.exponent_bits) - 1), fraction = bits & ((1 << half.fraction_bits) - 1);
  const int bias = (1 << (half.exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << half.exponent_bits) - 1) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - half.fraction_bits);
  return sign * std::ldexp((1 << half.fraction_bits) + fraction, exponent - bias - half.fraction_bits);
}

TEST(Halves, EveryPatternHasItsValueAndComesBack) {
  for (const Half& half : kHalves)
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const uint16_t pattern = static_cast<uint16_t>(bits);
      const double expected = by_definition(pattern, half);
      const float value = half.wide(pattern);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << half.name << " " << bits;
        ASSERT_TRUE(std::isnan(half.wide(half.narrow(value)))) << "NaN stays NaN";
        continue;
      }
      ASSERT_EQ(static_cast<double>(value), expected) << half.name << " " << bits;
      ASSERT_EQ(half.narrow(value), pattern) << half.name << " " << bits;
    }
}

TEST(Halves, RoundToTheNearestAndTiesToEven) {
  for (const Half& half : kHalves)
    for (uint32_t bits = 0; bits + 1 < (1u << 15); ++bits) {
      const uint16_t low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
      const double a = by_definition(low, half), b = by_definition(high, half);
      if (!std::isfinite(b)) break;
      const float middle = static_cast<float>((a + b) / 2);   // exact in fp32 for both formats, but for bf16's subnormals of fp32
      if (static_cast<double>(middle) != (a + b) / 2) continue;
      ASSERT_EQ(half.narrow(middle), low % 2 == 0 ? low : high) << half.name << " " << bits;
      ASSERT_EQ(half.narrow(std::nextafter(middle, INFINITY)), high) << half.name << " " << bits;
      ASSERT_EQ(half.narrow(std::nextafter(middle, -INFINITY)), low) << half.name << " " << bits;
      ASSERT_EQ(half.narrow(-middle), (low % 2 == 0 ? low : high) | 0x8000) << half.name << " " << bits;
    }
}

TEST(Halves, OverflowBecomesInfinity) {
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000) << "half of the least subnormal: to even";
  EXPECT_EQ(float_to_f16(-0.0f), 0x8000);
}

TEST(DTypes, NamesAreThoseOfSafetensors) {
  const char* const names[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"};
  const size_t sizes[] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  for (size_t i = 0; i < std::size(names); ++i) {
    const std::optional<DType> dtype = dtype_of(names[i]);
    ASSERT_TRUE(dtype.has_value()) << names[i];
    EXPECT_EQ(name_of(*dtype), names[i]);
    EXPECT_EQ(size_of(*dtype), sizes[i]);
  }
  for (const char* unknown : {"f32", "F8", "", "BF16 "}) EXPECT_FALSE(dtype_of(unknown).has_value());
  EXPECT_EQ(rounding_unit(DType::bf16), 0x1p-8);
  EXPECT_EQ(rounding_unit(DType::f16), 0x1p-11);
  EXPECT_EQ(kind_of([] { rounding_unit(DType::i32); }), ErrorKind::internal);
}

TEST(Sizes, OverflowIsAnErrorThatNamesThePlace) {
  EXPECT_EQ(num_elements({4096, 11008}), 4096u * 11008u);
  EXPECT_EQ(num_elements({}), 1u);
  EXPECT_EQ(num_elements({5, 0}), 0u);
  EXPECT_EQ(to_string(Shape{4096, 11008}), "[4096, 11008]");
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1, "x"), ((uint64_t{1} << 32) - 1) << 32);
  EXPECT_EQ(error_of([] { checked_mul(uint64_t{1} << 32, uint64_t{1} << 32, "a.safetensors: tensor t"); }),
            "4294967296 x 4294967296 does not fit in 64 bits (a.safetensors: tensor t); the sizes in this file cannot be right; replace "
            "the file");
  EXPECT_EQ(kind_of([] { checked_add(UINT64_MAX, 1, "x"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { num_elements({int64_t{1} << 40, int64_t{1} << 40}); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { num_elements({3, -1}); }), ErrorKind::data);
}

}  // namespace
}  // namespace longlora
