#include "common/arguments.h"
#include "cross_entropy/naive.h"
#include "device/vocabulary.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

template <class E, class D>
struct Row {
  struct Params {
    E* logits;
    const int32_t* labels;
    float* nll;
    int64_t stride, rows, width;
    float scale;
    bool gradient;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t row = int64_t{block_index()} * kThreads + thread_index();
    if (row >= p.rows) return;
    E* x = p.logits + row * p.stride;
    D* d = reinterpret_cast<D*>(x);
    const int32_t label = load(p.labels + row);
    if (label < 0) {
      store(p.nll + row, 0.0f);
      for (int64_t i = 0; p.gradient && i < p.width; ++i) store(d + i, from_float<D>(0.0f));
      return;
    }
    float largest = -infinity();
    double exact = 0;  // one after another, fp32 would lose three digits of a large vocabulary
    for (int64_t i = 0; i < p.width; ++i) largest = maximum(largest, to_float(load(x + i)));
    for (int64_t i = 0; i < p.width; ++i) exact += static_cast<double>(exp(to_float(load(x + i)) - largest));
    const float sum = static_cast<float>(exact);
    store(p.nll + row, log(sum) + (largest - to_float(load(x + label))));
    // element i of the gradient lies at or before element i of the logits, which has been read by then
    for (int64_t i = 0; p.gradient && i < p.width; ++i) {
      const float e = divide(exp(to_float(load(x + i)) - largest), sum);
      store(d + i, from_float<D>(p.scale * (i == label ? e - 1.0f : e)));
    }
  }
};

struct Sum {
  struct Params {
    const float* nll;
    double* sum;
    int64_t rows;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    if (thread_index() != 0) return;
    double sum = load(p.sum);
    for (int64_t i = 0; i < p.rows; ++i) sum += static_cast<double>(load(p.nll + i));
    store(p.sum, sum);
  }
};

template <class E, class D>
Launch rows(const CrossEntropy& p, ConstRows logits, const int32_t* labels, float scale, float* nll, bool gradient, Stream stream) {
  const typename Row<E, D>::Params params = {
      static_cast<E*>(const_cast<void*>(logits.data)), labels, nll, logits.stride, p.rows, p.vocabulary, scale, gradient};
  return launch<Row<E, D>>((p.rows + 31) / 32, 0, params, stream);
}

}  // namespace

Launch cross_entropy(const CrossEntropy& p, ConstRows logits, const int32_t* labels, float* nll, Stream stream) {
  return with_type(p.logits_type, [&]<class E>() { return rows<E, E>(p, logits, labels, 0, nll, false, stream); });
}
Launch cross_entropy_backward(const CrossEntropy& p, Rows logits, const int32_t* labels, float scale, float* nll, ElementType d_type,
                              Stream stream) {
  if (d_type == p.logits_type) return with_type(d_type, [&]<class E>() { return rows<E, E>(p, logits, labels, scale, nll, true, stream); });
  if (d_type == ElementType::bf16) return rows<float, bf16>(p, logits, labels, scale, nll, true, stream);
  return rows<float, fp16>(p, logits, labels, scale, nll, true, stream);
}
Launch add_nll(const float* nll, int64_t rows, double* sum, Stream stream) { return launch<Sum>(1, 0, {nll, sum, rows}, stream); }

}  // namespace longlora::kernels::naive
