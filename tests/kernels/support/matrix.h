#pragma once
// Matrices of any element type in device memory, with gaps between the rows that must stay poisoned, and how results are compared.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "kernels/support/device_memory.h"
#include "kernels/support/tolerance.h"
#if defined(LONGLORA_EMU)
#include "emu/runtime.h"
#endif

namespace longlora::testing {

using kernels::ConstRows;
using kernels::element_bytes;
using kernels::ElementType;
using kernels::Launch;
using kernels::Rows;
using Values = std::vector<double>;
using Bytes = std::vector<unsigned char>;

inline const char* name_of(ElementType t) { return t == ElementType::fp32 ? "fp32" : t == ElementType::bf16 ? "bf16" : "fp16"; }
inline constexpr ElementType kTypes[] = {ElementType::fp32, ElementType::bf16, ElementType::fp16};

/// Nearest even, from the definition: independent of the kernels' conversions.
inline uint32_t encode(ElementType type, double value) {
  const float x = static_cast<float>(value);
  if (type == ElementType::fp32) return std::bit_cast<uint32_t>(x);
  if (type == ElementType::fp16) return std::bit_cast<uint16_t>(static_cast<_Float16>(x));
  if (!std::isfinite(x)) return std::bit_cast<uint32_t>(x) >> 16;
  int exponent = 0;
  std::frexp(x, &exponent);
  const float unit = std::ldexp(1.0f, std::max(exponent, -125) - 8);
  return std::bit_cast<uint32_t>(static_cast<float>(std::nearbyint(x / unit) * unit)) >> 16;
}
inline double decode(ElementType type, uint32_t bits) {
  if (type == ElementType::fp32) return static_cast<double>(std::bit_cast<float>(bits));
  if (type == ElementType::fp16) return static_cast<double>(std::bit_cast<_Float16>(static_cast<uint16_t>(bits)));
  return static_cast<double>(std::bit_cast<float>(bits << 16));
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal() {  // Box-Muller: the same on every library
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * std::numbers::pi * uniform());
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }
  Values normals(int64_t count, double scale = 1) {
    Values v(static_cast<size_t>(count));
    for (double& x : v) x = scale * normal();
    return v;
  }

 private:
  std::mt19937_64 engine_;
};

/// [rows, width] at `offset` elements into an allocation, row stride >= width; all poison at first.
class Matrix {
 public:
  Matrix(const std::string& name, ElementType type, int64_t rows, int64_t width, int64_t stride = 0, int64_t offset = 0)
      : name_(name),
        type_(type),
        rows_(rows),
        width_(width),
        stride_(stride == 0 ? width : stride),
        offset_(offset),
        memory_(name, static_cast<size_t>((offset + (rows - 1) * stride_ + width) * element_bytes(type))) {}
  Matrix(const std::string& name, ElementType type, int64_t rows, int64_t width, int64_t stride, int64_t offset, const Values& values)
      : Matrix(name, type, rows, width, stride, offset) {
    write(values);
  }

  void* data() { return memory_.data() + offset_ * element_bytes(type_); }
  Rows view() { return {data(), stride_}; }
  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  /// Rounds the values to the type; `given` are the rounded ones.
  void write(const Values& values) {
    Bytes bytes(memory_.size(), 0xff);
    given.resize(values.size());
    for_each([&](size_t i, size_t at) {
      const uint32_t bits = encode(type_, values[i]);
      given[i] = decode(type_, bits);
      std::memcpy(bytes.data() + at, &bits, static_cast<size_t>(element_bytes(type_)));
    });
    memory_.write(bytes);
  }
  /// What is there now. Fails the test if anything between the rows was written.
  Values read() {
    const Bytes bytes = memory_.read();
    Values values(static_cast<size_t>(rows_ * width_));
    std::vector<bool> used(bytes.size());
    for_each([&](size_t i, size_t at) {
      uint32_t bits = 0;
      std::memcpy(&bits, bytes.data() + at, static_cast<size_t>(element_bytes(type_)));
      values[i] = decode(type_, bits);
      for (int64_t b = 0; b < element_bytes(type_); ++b) used[at + static_cast<size_t>(b)] = true;
    });
    for (size_t i = 0; i < bytes.size(); ++i)
      if (!used[i] && bytes[i] != 0xff) {
        ADD_FAILURE() << "byte " << i << " of '" << name_ << "' lies between the rows and was written";
        break;
      }
    return values;
  }
  Bytes bytes() { return memory_.read(); }

  Values given;

 private:
  template <class F>
  void for_each(F f) const {
    for (int64_t n = 0; n < rows_; ++n)
      for (int64_t i = 0; i < width_; ++i)
        f(static_cast<size_t>(n * width_ + i), static_cast<size_t>((offset_ + n * stride_ + i) * element_bytes(type_)));
  }

  std::string name_;
  ElementType type_;
  int64_t rows_, width_, stride_, offset_;
  DeviceArray<unsigned char> memory_;
};

inline void expect_ok(const Launch& l) { EXPECT_TRUE(l.ok()) << l.argument << ": " << l.problem; }
inline void expect_refused(const Launch& l, const char* argument) {
  ASSERT_FALSE(l.ok()) << "expected a complaint about " << argument;
  EXPECT_STREQ(l.argument, argument) << l.problem;
}

/// Both norms: the whole relative to the whole, and every element relative to the larger of itself and `floor` (0: the root mean square).
inline void expect_close(const Values& actual, const Values& expected, double tolerance, const std::string& what, double floor = 0,
                         double absolute = 0) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double error = 0, size = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  const double count = static_cast<double>(actual.size());
  if (floor == 0) floor = std::sqrt(size / count);
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(size) + absolute * std::sqrt(count)) << what << ", all elements";
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = tolerance * std::max(std::abs(expected[i]), floor) + absolute;
    if (!(std::abs(actual[i] - expected[i]) <= bound)) {
      ADD_FAILURE() << what << ", element " << i << " of " << actual.size() << ": " << actual[i] << ", expected " << expected[i]
                    << " within " << bound;
      return;
    }
  }
}

/// `run` makes its buffers, launches and answers with all output bytes: the same in every order of threads and blocks.
inline void expect_same_bits(const std::function<Bytes()>& run) {
  const Bytes first = run();
  EXPECT_EQ(run(), first) << "second run";
#if defined(LONGLORA_EMU)
  const emu::Options before = emu::options();
  const emu::Options orders[] = {{.seed = 2, .schedule = emu::Schedule::descending},
                                 {.seed = 3, .schedule = emu::Schedule::random, .shuffle_blocks = true, .resident_blocks = 3},
                                 {.seed = 4, .schedule = emu::Schedule::run_ahead, .shuffle_blocks = true}};
  for (const emu::Options& o : orders) {
    emu::options() = o;
    EXPECT_EQ(run(), first) << "order with seed " << o.seed;
  }
  emu::options() = before;
#endif
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
template <class T>
Bytes bytes_of(DeviceArray<T>& array) {
  const std::vector<T> values = array.read();
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

#if defined(LONGLORA_EMU)
/// Global memory traffic of what `run` launches.
struct Traffic {
  int64_t read, written;
};
inline Traffic traffic_of(const std::function<void()>& run) {
  const emu::Statistics before = emu::statistics();
  run();
  const emu::Statistics& after = emu::statistics();
  return {after.bytes_read - before.bytes_read, after.bytes_written - before.bytes_written};
}
#endif

}  // namespace longlora::testing
