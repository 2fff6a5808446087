#include "common/arguments.h"
#include "device/vocabulary.h"
#include "swiglu/naive.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

template <class E>
struct Element {
  struct Params {
    E* gate_up;
    E* m;  // forward: written; backward: d_m
    int64_t gate_up_stride, m_stride, rows, width;
    bool backward;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t index = int64_t{block_index()} * kThreads + thread_index(), row = index / p.width, i = index % p.width;
    if (row >= p.rows) return;
    E *gate = p.gate_up + row * p.gate_up_stride + i, *m = p.m + row * p.m_stride + i;
    const float g = to_float(load(gate)), up = to_float(load(gate + p.width)), s = divide(1.0f, 1.0f + exp(-g));
    if (!p.backward) return store(m, from_float<E>(g * s * up));
    const float d = to_float(load(m));
    store(gate, from_float<E>(d * up * (s + g * s * (1.0f - s))));
    store(gate + p.width, from_float<E>(d * g * s));
  }
};

Launch run(const Swiglu& p, const void* gate_up, int64_t gate_up_stride, const void* m, int64_t m_stride, bool backward, Stream stream) {
  return with_type(p.type, [&]<class E>() {
    const typename Element<E>::Params params = {static_cast<E*>(const_cast<void*>(gate_up)),
                                                static_cast<E*>(const_cast<void*>(m)),
                                                gate_up_stride,
                                                m_stride,
                                                p.rows,
                                                p.width,
                                                backward};
    return launch<Element<E>>((p.rows * p.width + 31) / 32, 0, params, stream);
  });
}

}  // namespace

Launch swiglu_forward(const Swiglu& p, ConstRows gate_up, Rows m, Stream stream) {
  return run(p, gate_up.data, gate_up.stride, m.data, m.stride, false, stream);
}
Launch swiglu_backward(const Swiglu& p, Rows gate_up, ConstRows d_m, Stream stream) {
  return run(p, gate_up.data, gate_up.stride, d_m.data, d_m.stride, true, stream);
}

}  // namespace longlora::kernels::naive
