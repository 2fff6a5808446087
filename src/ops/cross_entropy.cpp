#include "longlora/ops/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>

#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {
namespace {

using namespace vec;

template <class T>
float row_maximum(const T* x, int64_t width) {
  F8 m = broadcast(-INFINITY);
  for_lanes(width, [&](int64_t i, auto lanes) {
    if constexpr (std::is_same_v<decltype(lanes), Whole>)
      m = max(m, load(x + i));
    else
      for (int64_t j = 0; j < lanes.count; ++j) m[0] = std::max(m[0], static_cast<float>(x[i + j]));  // its zero lanes are no logits
  });
  return max_of(m);
}

/// Sum of exp(x - maximum); 4,096 terms at a time in fp32, the pieces in fp64.
template <class T>
double exponential_sum(const T* x, float maximum, int64_t width) {
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += 4096) {
    F8 piece{};
    for_lanes(std::min<int64_t>(4096, width - begin), [&](int64_t i, auto lanes) {
      F8 e = exp(load(x + begin + i, lanes) - maximum);
      if constexpr (!std::is_same_v<decltype(lanes), Whole>)
        for (int64_t j = lanes.count; j < kLanes; ++j) e[j] = 0;
      piece += e;
    });
    total += sum(piece);
  }
  return total;
}

void check_label(int32_t label, int64_t vocabulary) {
  LONGLORA_CHECK(label >= 0 && label < vocabulary, data,
                 "label " + std::to_string(label) + ", expected 0 to " + std::to_string(vocabulary - 1), "labels",
                 "tokenise the data with this model's tokenizer");
}

enum class Gradient { no, yes };

template <class T>
float row_loss(T* x, int32_t label, float scale, int64_t width, Gradient gradient) {
  const float maximum = row_maximum(x, width);
  const double total = exponential_sum(x, maximum, width);
  const float nll = static_cast<float>(std::log(total) + static_cast<double>(maximum) - static_cast<double>(static_cast<float>(x[label])));
  if (gradient == Gradient::no) return nll;
  const float factor = static_cast<float>(static_cast<double>(scale) / total);
  const float at_label = factor * vec::exp(broadcast(static_cast<float>(x[label]) - maximum))[0] - scale;
  for_lanes(width, [&](int64_t i, auto lanes) { store(x + i, exp(load(x + i, lanes) - maximum) * factor, lanes); });
  x[label] = static_cast<T>(at_label);
  return nll;
}

void check_labels(std::span<const int32_t> labels, int64_t vocabulary) {
  for (const int32_t label : labels) check_label(label, vocabulary);
}

std::span<float> values_of(at::Tensor& nll_N) {
  require_host(nll_N, "cross_entropy");
  return {nll_N.data_ptr<float>(), static_cast<size_t>(nll_N.numel())};
}

void all_rows(const at::Tensor& logits_NV, std::span<const int32_t> labels, float scale, std::span<float> nll, Gradient gradient) {
  const int64_t rows = logits_NV.size(0), width = logits_NV.size(1);
  check_labels(labels.first(static_cast<size_t>(rows)), width);
  with_element_type(logits_NV, [&]<class T>(T) {
    T* logits = logits_NV.data_ptr<T>();
    at::parallel_for(0, rows, row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        nll[static_cast<size_t>(n)] = row_loss(logits + n * logits_NV.stride(0), labels[static_cast<size_t>(n)], scale, width, gradient);
    });
  });
}

}  // namespace

void cross_entropy_forward(const at::Tensor& logits_NV, std::span<const int32_t> labels, std::span<float> nll) {
  all_rows(logits_NV, labels, 0, nll, Gradient::no);
}

void cross_entropy_forward_backward(at::Tensor& logits_NV, std::span<const int32_t> labels, float scale, std::span<float> nll) {
  all_rows(logits_NV, labels, scale, nll, Gradient::yes);
}

void cross_entropy_forward(const at::Tensor& logits_NV, const IntList& labels, at::Tensor& nll_N) {
  if constexpr (kWithKernels) {
    if (!logits_NV.is_cpu()) {
      check_labels(labels.host(), logits_NV.size(1));
      return device::cross_entropy_forward(logits_NV, labels, nll_N);
    }
  }
  all_rows(logits_NV, labels.host(), 0, values_of(nll_N), Gradient::no);
}

at::Tensor cross_entropy_forward_backward(at::Tensor& logits_NV, const IntList& labels, float scale, at::ScalarType d_type,
                                          at::Tensor& nll_N) {
  if constexpr (kWithKernels) {
    if (!logits_NV.is_cpu()) {
      check_labels(labels.host(), logits_NV.size(1));
      return device::cross_entropy_forward_backward(logits_NV, labels, scale, d_type, nll_N);
    }
  }
  LONGLORA_INVARIANT(d_type == logits_NV.scalar_type());
  all_rows(logits_NV, labels.host(), scale, values_of(nll_N), Gradient::yes);
  return logits_NV;
}

LossSum sum_of(const at::Tensor& nll_N) {
  LossSum sum{.targets = nll_N.numel()};
  if constexpr (kWithKernels) {
    if (!nll_N.is_cpu()) {
      sum.pending = device::sum_of(nll_N);
      return sum;
    }
  }
  at::Tensor values = nll_N;
  for (const float value : values_of(values)) sum.nll_sum += static_cast<double>(value);
  return sum;
}

LossSum operator+(const LossSum& left, const LossSum& right) {
  LossSum sum{.nll_sum = left.nll_sum + right.nll_sum, .targets = left.targets + right.targets};
  if (left.pending.defined() || right.pending.defined()) sum.pending = at::add(left.pending, right.pending);
  return sum;
}

void settle(LossSum& sum) {
  if (!sum.pending.defined()) return;
  sum.nll_sum += sum.pending.item<double>();
  sum.pending = at::Tensor();
}

}  // namespace longlora
