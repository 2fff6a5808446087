#pragma once
// Tensors for tests: filled from a seed, read as double, compared.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "longlora/core/dtype.h"

namespace longlora::test {

/// Normal(0, deviation), the same for every dtype up to rounding.
inline at::Tensor random_tensor(at::IntArrayRef sizes, uint32_t seed, double deviation = 1.0, at::ScalarType type = at::kFloat) {
  at::Tensor t = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
  for (int64_t i = 0; i < t.numel(); ++i) t.data_ptr<float>()[i] = normal(generator);
  return t.to(type);
}

/// Elements in row-major order, whatever the strides.
inline std::vector<double> doubles(const at::Tensor& t) {
  const at::Tensor flat = t.to(at::kDouble).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

/// Largest difference relative to the largest reference magnitude; NaN and different sizes give infinity.
inline double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return INFINITY;
  double scale = 1e-30, worst = 0;
  for (double e : expected) scale = std::max(scale, std::abs(e));
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got[i] - expected[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst / scale;
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

inline DType dtype_of(const at::Tensor& t) { return t.scalar_type() == at::kBFloat16 ? DType::bf16 : DType::f32; }

}  // namespace longlora::test
