#include "common/arguments.h"
#include "device/vocabulary.h"
#include "optimizer/naive.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

struct Squares {
  struct Params {
    const float* gradient;
    double* blocks;
    int64_t count;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t b = int64_t{block_index()} * kThreads + thread_index();
    if (b >= norm_blocks(p.count)) return;
    double sum = 0;
    for (int64_t i = b * kNormBlock; i < p.count && i < (b + 1) * kNormBlock; ++i) {
      const double g = static_cast<double>(load(p.gradient + i));
      sum += g * g;
    }
    store(p.blocks + b, sum);
  }
};

struct Tree {
  struct Params {
    double* nodes;
    int64_t count;
    double* norm;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    if (thread_index() != 0) return;
    for (int64_t count = p.count; count > 1; count = (count + 1) / 2)
      for (int64_t i = 0; 2 * i < count; ++i) {
        double sum = load(p.nodes + 2 * i);
        if (2 * i + 1 < count) sum += load(p.nodes + 2 * i + 1);
        store(p.nodes + i, sum);
      }
    store(p.norm, p.count > 0 ? sqrt(load(p.nodes)) : 0.0);
  }
};

template <class C>
struct Element {
  struct Params {
    Adamw u;
    float *master, *grad, *m, *v;
    C* copy;
    const UpdateControl* control;
    int64_t count;
    bool zero_grad;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t i = int64_t{block_index()} * kThreads + thread_index();
    if (i >= p.count || load(&p.control->finite) == 0) return;
    const float g = load(p.grad + i) * load(&p.control->clip);
    const float m = load(p.m + i) * p.u.beta1 + g * (1.0f - p.u.beta1), v = load(p.v + i) * p.u.beta2 + g * g * (1.0f - p.u.beta2);
    const float master = load(p.master + i) * p.u.keep - divide(p.u.step_size * m, sqrt(v) * p.u.root_correction + p.u.eps);
    store(p.m + i, m);
    store(p.v + i, v);
    store(p.master + i, master);
    if (p.copy != nullptr) store(p.copy + i, from_float<C>(master));
    if (p.zero_grad) store(p.grad + i, 0.0f);
  }
};

}  // namespace

Launch sum_of_squares(const float* gradient, int64_t count, double* blocks, Stream stream) {
  return launch<Squares>((norm_blocks(count) + 31) / 32, 0, {gradient, blocks, count}, stream);
}
Launch gradient_norm(double* blocks, int64_t num_blocks, double* norm, Stream stream) {
  return launch<Tree>(1, 0, {blocks, num_blocks, norm}, stream);
}
Launch adamw(const Adamw& step, int64_t count, float* master, float* grad, float* m, float* v, void* copy, ElementType copy_type,
             bool zero_grad, const UpdateControl* control, Stream stream) {
  return with_type(copy_type, [&]<class C>() {
    const typename Element<C>::Params params = {step, master, grad, m, v, static_cast<C*>(copy), control, count, zero_grad};
    return launch<Element<C>>((count + 31) / 32, 0, params, stream);
  });
}

}  // namespace longlora::kernels::naive
