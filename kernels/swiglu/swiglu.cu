// One thread a vector of gate and the same of up.
#include "common/vectors.cuh"
#include "longlora/kernels/swiglu.h"

namespace longlora::kernels {
namespace {

LONGLORA_DEVICE float sigmoid(float x) { return device::divide(1.0f, 1.0f + device::exp(-x)); }

template <class E, bool kAligned>
struct SwigluForward {
  struct Params {
    const E* gate_up;
    E* m;
    int64_t gate_up_stride, m_stride, width;
    Deal deal;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    constexpr int kPer = kPer128<E>;
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int64_t i = s.item * kPer, count = p.width - i;
    const E* gate = p.gate_up + s.row * p.gate_up_stride + i;
    float g[kPer], up[kPer];
    load_floats<E, kAligned>(gate, count, g);
    load_floats<E, kAligned>(gate + p.width, count, up);
    LONGLORA_UNROLL
    for (int k = 0; k < kPer; ++k) g[k] = g[k] * sigmoid(g[k]) * up[k];
    store_floats<E, kAligned>(p.m + s.row * p.m_stride + i, count, g);
  }
};

template <class E, bool kAligned>
struct SwigluBackward {
  struct Params {
    E* gate_up;
    const E* d_m;
    int64_t gate_up_stride, d_m_stride, width;
    Deal deal;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    constexpr int kPer = kPer128<E>;
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int64_t i = s.item * kPer, count = p.width - i;
    E* gate = p.gate_up + s.row * p.gate_up_stride + i;
    float g[kPer], up[kPer], d[kPer];
    load_floats<E, kAligned>(gate, count, g);
    load_floats<E, kAligned>(gate + p.width, count, up);
    load_floats<E, kAligned>(p.d_m + s.row * p.d_m_stride + i, count, d);
    LONGLORA_UNROLL
    for (int k = 0; k < kPer; ++k) {
      const float sig = sigmoid(g[k]), silu = g[k] * sig;
      g[k] = d[k] * up[k] * (sig + silu * (1.0f - sig));
      up[k] = d[k] * silu;
    }
    store_floats<E, kAligned>(gate, count, g);
    store_floats<E, kAligned>(gate + p.width, count, up);
  }
};

/// f.operator()<E, aligned>(deal); `gate_up` and the other rows decide the alignment, and so does the width, at which up begins.
template <class F>
Launch with_layout(const Swiglu& p, ConstRows gate_up, ConstRows other, F f) {
  return with_type(p.type, [&]<class E>() {
    const Deal deal = Deal::of(p.rows, (p.width + kPer128<E> - 1) / kPer128<E>, 256);
    if (p.width % kPer128<E> == 0 && on_16_bytes(gate_up, p.type) && on_16_bytes(other, p.type))
      return f.template operator()<E, true>(deal);
    return f.template operator()<E, false>(deal);
  });
}

}  // namespace

Launch swiglu_forward(const Swiglu& p, ConstRows gate_up, Rows m, Stream stream) {
  const Arguments a = Arguments()
                          .size("rows", p.rows)
                          .size("width", p.width)
                          .matrix("gate_up", gate_up, p.type, 2 * p.width)
                          .matrix("m", m, p.type, p.width)
                          .require(m.data != gate_up.data || m.stride == gate_up.stride, "m", "is the gate with another row stride");
  if (!a.ok()) return a.answer;
  return with_layout(p, gate_up, m, [&]<class E, bool kAligned>(const Deal& deal) {
    using Kernel = SwigluForward<E, kAligned>;
    const typename Kernel::Params params = {
        static_cast<const E*>(gate_up.data), static_cast<E*>(m.data), gate_up.stride, m.stride, p.width, deal};
    return device::launch<Kernel>(deal.blocks(), 0, params, stream);
  });
}

Launch swiglu_backward(const Swiglu& p, Rows gate_up, ConstRows d_m, Stream stream) {
  const Arguments a = Arguments()
                          .size("rows", p.rows)
                          .size("width", p.width)
                          .matrix("gate_up", gate_up, p.type, 2 * p.width)
                          .matrix("d_m", d_m, p.type, p.width);
  if (!a.ok()) return a.answer;
  return with_layout(p, gate_up, d_m, [&]<class E, bool kAligned>(const Deal& deal) {
    using Kernel = SwigluBackward<E, kAligned>;
    const typename Kernel::Params params = {
        static_cast<E*>(gate_up.data), static_cast<const E*>(d_m.data), gate_up.stride, d_m.stride, p.width, deal};
    return device::launch<Kernel>(deal.blocks(), 0, params, stream);
  });
}

}  // namespace longlora::kernels
