#include "common/arguments.h"
#include "device/vocabulary.h"
#include "rms_norm/naive.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

struct Operands {
  RmsNorm p;
  const void *x, *branch, *weight, *d_y;
  void *sum, *y, *d_x;
  float* d_weight;
  int64_t x_stride, branch_stride, sum_stride, y_stride, d_y_stride, d_x_stride;
  bool add;
};

template <class E>
LONGLORA_DEVICE float rstd_of(const E* x, int64_t width, float eps) {
  float squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += to_float(load(x + i)) * to_float(load(x + i));
  return divide(1.0f, sqrt(divide(squares, static_cast<float>(width)) + eps));
}

template <class E>
struct Forward {
  using Params = Operands;
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& o) {
    const int64_t row = int64_t{block_index()} * kThreads + thread_index();
    if (row >= o.p.rows) return;
    const E *x = static_cast<const E*>(o.x) + row * o.x_stride, *weight = static_cast<const E*>(o.weight);
    if (o.branch != nullptr) {
      const E* branch = static_cast<const E*>(o.branch) + row * o.branch_stride;
      E* sum = static_cast<E*>(o.sum) + row * o.sum_stride;
      for (int64_t i = 0; i < o.p.width; ++i) store(sum + i, from_float<E>(to_float(load(x + i)) + to_float(load(branch + i))));
      x = sum;
    }
    const float rstd = rstd_of(x, o.p.width, o.p.eps);
    E* y = static_cast<E*>(o.y) + row * o.y_stride;
    for (int64_t i = 0; i < o.p.width; ++i) store(y + i, from_float<E>(to_float(load(weight + i)) * (to_float(load(x + i)) * rstd)));
  }
};

template <class E>
struct Backward {
  using Params = Operands;
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& o) {
    const int64_t row = int64_t{block_index()} * kThreads + thread_index();
    if (row >= o.p.rows) return;
    const E *x = static_cast<const E*>(o.x) + row * o.x_stride, *d_y = static_cast<const E*>(o.d_y) + row * o.d_y_stride;
    const E* weight = static_cast<const E*>(o.weight);
    E* d_x = static_cast<E*>(o.d_x) + row * o.d_x_stride;
    const float rstd = rstd_of(x, o.p.width, o.p.eps);
    float dot = 0;
    for (int64_t i = 0; i < o.p.width; ++i) dot += to_float(load(weight + i)) * to_float(load(d_y + i)) * (to_float(load(x + i)) * rstd);
    const float mean = divide(dot, static_cast<float>(o.p.width));
    for (int64_t i = 0; i < o.p.width; ++i) {
      const float x_hat = to_float(load(x + i)) * rstd;
      float d = (to_float(load(weight + i)) * to_float(load(d_y + i)) - x_hat * mean) * rstd;
      if (o.add) d += to_float(load(d_x + i));
      store(d_x + i, from_float<E>(d));
    }
  }
};

/// One warp, a thread every 32nd column, row after row; before Backward, which may overwrite d_y.
template <class E>
struct WeightGradient {
  using Params = Operands;
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& o) {
    for (int64_t row = 0; row < o.p.rows; ++row) {
      const E* x = static_cast<const E*>(o.x) + row * o.x_stride;
      const E* d_y = static_cast<const E*>(o.d_y) + row * o.d_y_stride;
      const float rstd = rstd_of(x, o.p.width, o.p.eps);
      for (int64_t i = thread_index(); i < o.p.width; i += kThreads)
        store(o.d_weight + i, load(o.d_weight + i) + to_float(load(d_y + i)) * (to_float(load(x + i)) * rstd));
    }
  }
};

template <template <class> class Kernel>
Launch launch_naive(const Operands& o, int64_t threads, Stream stream) {
  return with_type(o.p.type, [&]<class E>() { return launch<Kernel<E>>((threads + 31) / 32, 0, o, stream); });
}

}  // namespace

Launch rms_norm_forward(const RmsNorm& p, ConstRows x, const void* weight, Rows y, Stream stream) {
  Operands o = {.p = p, .x = x.data, .weight = weight, .y = y.data, .x_stride = x.stride, .y_stride = y.stride};
  return launch_naive<Forward>(o, p.rows, stream);
}

Launch rms_norm_residual_forward(const RmsNorm& p, ConstRows x, ConstRows branch, const void* weight, Rows sum, Rows y, Stream stream) {
  Operands o = {.p = p,
                .x = x.data,
                .branch = branch.data,
                .weight = weight,
                .sum = sum.data,
                .y = y.data,
                .x_stride = x.stride,
                .branch_stride = branch.stride,
                .sum_stride = sum.stride,
                .y_stride = y.stride};
  return launch_naive<Forward>(o, p.rows, stream);
}

Launch rms_norm_backward(const RmsNorm& p, ConstRows x, const void* weight, ConstRows d_y, Rows d_x, bool add_to_d_x, float* d_weight,
                         void*, Stream stream) {
  Operands o = {.p = p,
                .x = x.data,
                .weight = weight,
                .d_y = d_y.data,
                .d_x = d_x.data,
                .d_weight = d_weight,
                .x_stride = x.stride,
                .d_y_stride = d_y.stride,
                .d_x_stride = d_x.stride,
                .add = add_to_d_x};
  if (d_weight != nullptr) {
    const Launch l = launch_naive<WeightGradient>(o, 1, stream);
    if (!l.ok()) return l;
  }
  return launch_naive<Backward>(o, p.rows, stream);
}

}  // namespace longlora::kernels::naive
