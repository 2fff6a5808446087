#include "longlora/ops/rms_norm.h"

#include <ATen/Parallel.h>

#include <vector>

#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {
namespace {

using namespace vec;

constexpr int64_t kRowsPerBlock = 64;  // fixed: the order of the weight gradient's sum depends on it

template <class T>
float reciprocal_rms(const T* x, int64_t width, double eps) {
  F8 even{}, odd{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    const F8 a = load(x + i), b = load(x + i + kLanes);
    even += a * a;
    odd += b * b;
  }
  for_lanes(width - i, [&](int64_t j, auto lanes) {
    const F8 a = load(x + i + j, lanes);
    even += a * a;
  });
  const double mean = static_cast<double>(sum(even + odd)) / static_cast<double>(width);
  return static_cast<float>(1.0 / std::sqrt(mean + eps));
}

template <class T>
void forward_row(const T* x, const T* weight, double eps, T* y, int64_t width) {
  const float scale = reciprocal_rms(x, width, eps);
  for_lanes(width, [&](int64_t i, auto lanes) { store(y + i, load(weight + i, lanes) * (load(x + i, lanes) * scale), lanes); });
}

/// d_weight: fp32 partial sum of the row's block, or null.
template <class T>
void backward_row(const T* x, const T* weight, double eps, const T* d_y, T* d_x, float* d_weight, int64_t width, Accumulate accumulate) {
  const float scale = reciprocal_rms(x, width, eps);
  F8 dot{};
  for_lanes(width, [&](int64_t i, auto lanes) {
    const F8 x_hat = load(x + i, lanes) * scale, d = load(d_y + i, lanes);
    dot += load(weight + i, lanes) * d * x_hat;
    if (d_weight != nullptr) store(d_weight + i, load(d_weight + i, lanes) + d * x_hat, lanes);
  });
  const float mean = sum(dot) / static_cast<float>(width);
  for_lanes(width, [&](int64_t i, auto lanes) {
    const F8 x_hat = load(x + i, lanes) * scale;
    F8 d = (load(weight + i, lanes) * load(d_y + i, lanes) - x_hat * mean) * scale;
    if (accumulate == Accumulate::yes) d += load(d_x + i, lanes);
    store(d_x + i, d, lanes);
  });
}

void add_blocks(const std::vector<float>& partial, int64_t num_blocks, int64_t width, float* d_weight) {
  for (int64_t block = 0; block < num_blocks; ++block)
    for_lanes(width, [&](int64_t i, auto lanes) {
      store(d_weight + i, load(d_weight + i, lanes) + load(partial.data() + block * width + i, lanes), lanes);
    });
}

}  // namespace

void rms_norm_forward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, at::Tensor& y_NC) {
  if constexpr (kWithKernels) {
    if (!x_NC.is_cpu()) return device::rms_norm_forward(x_NC, weight_C, eps, y_NC);
  }
  const int64_t rows = x_NC.size(0), width = x_NC.size(1);
  with_element_type(x_NC, [&]<class T>(T) {
    const T *x = x_NC.const_data_ptr<T>(), *weight = weight_C.const_data_ptr<T>();
    T* y = y_NC.data_ptr<T>();
    at::parallel_for(0, rows, row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) forward_row(x + n * x_NC.stride(0), weight, eps, y + n * y_NC.stride(0), width);
    });
  });
}

void rms_norm_backward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, const at::Tensor& d_y_NC, at::Tensor& d_x_NC,
                       at::Tensor& d_weight_C, Accumulate accumulate) {
  if constexpr (kWithKernels) {
    if (!x_NC.is_cpu()) return device::rms_norm_backward(x_NC, weight_C, eps, d_y_NC, d_x_NC, d_weight_C, accumulate);
  }
  const int64_t rows = x_NC.size(0), width = x_NC.size(1);
  const int64_t num_blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  static thread_local std::vector<float> partial;  // kept: no allocation in later calls
  const bool trainable = d_weight_C.defined();
  if (trainable) partial.assign(static_cast<size_t>(num_blocks * width), 0.0f);
  float* const sums = partial.data();  // a thread_local named in the lambda would be another thread's
  with_element_type(x_NC, [&]<class T>(T) {
    const T *x = x_NC.const_data_ptr<T>(), *weight = weight_C.const_data_ptr<T>(), *d_y = d_y_NC.const_data_ptr<T>();
    T* d_x = d_x_NC.data_ptr<T>();
    at::parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t n = first * kRowsPerBlock; n < std::min(rows, last * kRowsPerBlock); ++n)
        backward_row(x + n * x_NC.stride(0), weight, eps, d_y + n * d_y_NC.stride(0), d_x + n * d_x_NC.stride(0),
                     trainable ? sums + n / kRowsPerBlock * width : nullptr, width, accumulate);
    });
  });
  if (trainable) add_blocks(partial, num_blocks, width, d_weight_C.data_ptr<float>());
}

}  // namespace longlora
