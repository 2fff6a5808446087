// One pass over a parameter: eight elements a thread, every byte read and written once.
#include "common/vectors.cuh"
#include "longlora/kernels/optimizer.h"

namespace longlora::kernels {
namespace {

struct NoCopy {
  uint16_t bits;
};
constexpr int kStep = 8;

/// C: type of the copy, NoCopy when the model computes with the master.
template <class C, bool kAligned>
struct AdamwStep {
  struct Params {
    Adamw step;
    float *master, *grad, *m, *v;
    C* copy;
    const UpdateControl* control;
    int64_t count;
    bool zero_grad;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 3;

  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t i = (int64_t{device::block_index()} * kThreads + device::thread_index()) * kStep, count = p.count - i;
    if (count <= 0 || device::load(&p.control->finite) == 0) return;
    const float clip = device::load(&p.control->clip);
    whole_or_part<kAligned, kStep>(count, [&]<bool kWhole>() { update<kWhole>(p, i, count, clip); });
  }

 private:
  template <bool kWhole>
  LONGLORA_DEVICE static void update(const Params& p, int64_t i, int64_t count, float clip) {
    const Adamw& u = p.step;
    float master[kStep], g[kStep], m[kStep], v[kStep];
    load_floats<float, kWhole>(p.grad + i, count, g);
    load_floats<float, kWhole>(p.m + i, count, m);
    load_floats<float, kWhole>(p.v + i, count, v);
    load_floats<float, kWhole>(p.master + i, count, master);
    LONGLORA_UNROLL
    for (int k = 0; k < kStep; ++k) {
      const float clipped = g[k] * clip;
      m[k] = m[k] * u.beta1 + clipped * (1.0f - u.beta1);
      v[k] = v[k] * u.beta2 + clipped * clipped * (1.0f - u.beta2);
      const float root = device::sqrt(v[k]) * u.root_correction + u.eps;
      master[k] = master[k] * u.keep - device::divide(u.step_size * m[k], root);
    }
    store_floats<float, kWhole>(p.m + i, count, m);
    store_floats<float, kWhole>(p.v + i, count, v);
    store_floats<float, kWhole>(p.master + i, count, master);
    if constexpr (!__is_same(C, NoCopy)) store_floats<C, kWhole>(p.copy + i, count, master);
    if (p.zero_grad) {
      const float zeros[kStep] = {};
      store_floats<float, kWhole>(p.grad + i, count, zeros);
    }
  }
};

}  // namespace

Launch adamw(const Adamw& step, int64_t count, float* master, float* grad, float* m, float* v, void* copy, ElementType copy_type,
             bool zero_grad, const UpdateControl* control, Stream stream) {
  Arguments a;
  a.size("count", count).pointer("master", master, 4).pointer("grad", grad, 4).pointer("m", m, 4).pointer("v", v, 4);
  a.pointer("control", control, 4).require(copy != master, "copy", "is the master: pass null");
  if (copy != nullptr) a.vector("copy", copy, copy_type);
  if (!a.ok()) return a.answer;
  bool aligned = on_16_bytes(copy);
  for (const float* p : {master, grad, m, v}) aligned = aligned && on_16_bytes(p);
  const auto run = [&]<class C>() {
    const auto with = [&]<bool kAligned>() {
      using Kernel = AdamwStep<C, kAligned>;
      const typename Kernel::Params params = {step, master, grad, m, v, static_cast<C*>(copy), control, count, zero_grad};
      const int64_t per_block = Kernel::kThreads * kStep;
      return device::launch<Kernel>((count + per_block - 1) / per_block, 0, params, stream);
    };
    return aligned ? with.template operator()<true>() : with.template operator()<false>();
  };
  return copy == nullptr ? run.template operator()<NoCopy>() : with_type(copy_type, run);
}

}  // namespace longlora::kernels
