// One block a row. The first pass finds maximum and sum together (each thread rescales its sum when its maximum grows), the second one
// writes the gradient over the logits while they are still in the L2 cache.
#include "common/vectors.cuh"
#include "longlora/kernels/cross_entropy.h"

namespace longlora::kernels {
namespace {

constexpr int kRowThreads = 512;
constexpr int kStep = 8;  // elements of a thread at a time: 16 bytes of a 16-bit gradient
constexpr float kLowest = -3.402823466e38f;

/// sum exp(x - maximum)
struct ExponentialSum {
  float maximum, sum;
};

/// E: of the logits, D: of their gradient; a narrower D moves down in their memory.
template <class E, class D, bool kAligned, bool kGradient>
struct CrossEntropyRow {
  struct Params {
    E* logits;  // only read without kGradient
    const int32_t* labels;
    float* nll;
    int64_t stride, width;
    float scale;
  };
  static constexpr int kThreads = kRowThreads;
  static constexpr int kMinBlocks = 2;

  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t row = device::block_index();
    E* logits = p.logits + row * p.stride;
    const int32_t label = device::load(p.labels + row);
    if (label < 0) {  // the same for the whole block
      if (device::thread_index() == 0) device::store(p.nll + row, 0.0f);
      if constexpr (kGradient) clear(reinterpret_cast<D*>(logits), p.width);
      return;
    }
    const float target = device::to_float(device::load(logits + label));  // before anything is written over it
    const ExponentialSum total = sum_of_row(logits, p.width);
    if (device::thread_index() == 0) device::store(p.nll + row, device::log(total.sum) + (total.maximum - target));
    if constexpr (kGradient) write_gradient(logits, label, total, p.scale, p.width);
  }

 private:
  template <bool kWhole>
  LONGLORA_DEVICE static void add_step(const E* logits, int64_t count, ExponentialSum& mine) {
    float x[kStep], maximum = mine.maximum;
    load_floats<E, kWhole>(logits, count, x);
    LONGLORA_UNROLL
    for (int k = 0; k < kStep; ++k) {
      if (!kWhole && k >= count) x[k] = -device::infinity();
      maximum = device::maximum(maximum, x[k]);
    }
    mine.sum *= device::exp(mine.maximum - maximum);
    mine.maximum = maximum;
    LONGLORA_UNROLL
    for (int k = 0; k < kStep; ++k) mine.sum += device::exp(x[k] - maximum);
  }

  LONGLORA_DEVICE static ExponentialSum sum_of_row(const E* logits, int64_t width) {
    ExponentialSum mine = {kLowest, 0};
    int64_t i = int64_t{device::thread_index()} * kStep;
    for (; i + kStep <= width; i += kThreads * kStep) add_step<kAligned>(logits + i, kStep, mine);
    if (i < width) add_step<false>(logits + i, width - i, mine);
    return combine(mine);
  }

  /// Butterfly in the warp, then the warps in order; the barrier also separates all reads of the first pass from the writes of the second.
  LONGLORA_DEVICE static ExponentialSum combine(ExponentialSum mine) {
    constexpr int kWarps = kThreads / device::kWarp;
    float *maxima = device::shared_memory<float>(), *sums = maxima + kWarps;
    const float of_warp = device::warp_max(mine.maximum);
    const float sum = device::warp_sum(mine.sum * device::exp(mine.maximum - of_warp));
    if (device::lane_index() == 0) {
      device::store(maxima + device::warp_index(), of_warp);
      device::store(sums + device::warp_index(), sum);
    }
    device::sync_block();
    ExponentialSum total = {kLowest, 0};
    LONGLORA_UNROLL
    for (int w = 0; w < kWarps; ++w) total.maximum = device::maximum(total.maximum, device::load(maxima + w));
    LONGLORA_UNROLL
    for (int w = 0; w < kWarps; ++w) total.sum += device::load(sums + w) * device::exp(device::load(maxima + w) - total.maximum);
    return total;
  }

  LONGLORA_DEVICE static void write_gradient(E* logits, int32_t label, ExponentialSum total, float scale, int64_t width) {
    const float factor = device::divide(scale, total.sum);
    D* d = reinterpret_cast<D*>(logits);
    for (int64_t begin = 0; begin < width; begin += kThreads * kStep) {
      const int64_t i = begin + int64_t{device::thread_index()} * kStep, count = width - i;
      float x[kStep];
      whole_or_part<kAligned, kStep>(count, [&]<bool kWhole>() { load_floats<E, kWhole>(logits + i, count, x); });
      LONGLORA_UNROLL
      for (int k = 0; k < kStep; ++k) {
        x[k] = device::exp(x[k] - total.maximum) * factor;
        if (i + k == label) x[k] -= scale;
      }
      // this step's elements go to addresses of logits of this step or earlier ones, which everybody has read after the barrier
      if constexpr (sizeof(D) < sizeof(E)) device::sync_block();
      whole_or_part<kAligned, kStep>(count, [&]<bool kWhole>() { store_floats<D, kWhole>(d + i, count, x); });
    }
  }

  LONGLORA_DEVICE static void clear(D* d, int64_t width) {
    const float zeros[kStep] = {};
    for (int64_t i = int64_t{device::thread_index()} * kStep; i < width; i += kThreads * kStep)
      whole_or_part<kAligned, kStep>(width - i, [&]<bool kWhole>() { store_floats<D, kWhole>(d + i, width - i, zeros); });
  }
};

/// *sum += nll, thread t adds elements t, t + 1024, ...
struct AddNll {
  struct Params {
    const float* nll;
    double* sum;
    int64_t rows;
  };
  static constexpr int kThreads = 1024;
  static constexpr int kMinBlocks = 1;

  LONGLORA_DEVICE static void run(const Params& p) {
    double mine = 0;
    for (int64_t i = device::thread_index(); i < p.rows; i += kThreads) mine += static_cast<double>(device::load(p.nll + i));
    const double total = block_sum<kThreads>(mine, device::shared_memory<double>());
    if (device::thread_index() == 0) device::store(p.sum, device::load(p.sum) + total);
  }
};

template <class E, class D, bool kGradient>
Launch launch_rows(const CrossEntropy& p, ConstRows logits, const int32_t* labels, float scale, float* nll, Stream stream) {
  const auto run = [&]<bool kAligned>() {
    using Kernel = CrossEntropyRow<E, D, kAligned, kGradient>;
    const typename Kernel::Params params = {
        static_cast<E*>(const_cast<void*>(logits.data)), labels, nll, logits.stride, p.vocabulary, scale};
    return device::launch<Kernel>(p.rows, 2 * 4 * kRowThreads / device::kWarp, params, stream);
  };
  return on_16_bytes(logits, p.logits_type) ? run.template operator()<true>() : run.template operator()<false>();
}

Arguments check(const CrossEntropy& p, ConstRows logits, const int32_t* labels, const float* nll) {
  return Arguments()
      .size("rows", p.rows)
      .size("vocabulary", p.vocabulary)
      .matrix("logits", logits, p.logits_type, p.vocabulary)
      .pointer("labels", labels, 4)
      .pointer("nll", nll, 4);
}

}  // namespace

Launch cross_entropy(const CrossEntropy& p, ConstRows logits, const int32_t* labels, float* nll, Stream stream) {
  const Arguments a = check(p, logits, labels, nll);
  if (!a.ok()) return a.answer;
  return with_type(p.logits_type, [&]<class E>() { return launch_rows<E, E, false>(p, logits, labels, 0, nll, stream); });
}

Launch cross_entropy_backward(const CrossEntropy& p, Rows logits, const int32_t* labels, float scale, float* nll, ElementType d_type,
                              Stream stream) {
  const Arguments a = check(p, logits, labels, nll)
                          .require(d_type == p.logits_type || p.logits_type == ElementType::fp32, "d_type",
                                   "must be the logits' type, or bf16 or fp16 over fp32 logits");
  if (!a.ok()) return a.answer;
  if (d_type == p.logits_type)
    return with_type(d_type, [&]<class E>() { return launch_rows<E, E, true>(p, logits, labels, scale, nll, stream); });
  if (d_type == ElementType::bf16) return launch_rows<float, device::bf16, true>(p, logits, labels, scale, nll, stream);
  return launch_rows<float, device::fp16, true>(p, logits, labels, scale, nll, stream);
}

Launch add_nll(const float* nll, int64_t rows, double* sum, Stream stream) {
  const Arguments a = Arguments().size("rows", rows).pointer("nll", nll, 4).pointer("sum", sum, 8);
  if (!a.ok()) return a.answer;
  return device::launch<AddNll>(1, AddNll::kThreads / device::kWarp * 8, {nll, sum, rows}, stream);
}

}  // namespace longlora::kernels
