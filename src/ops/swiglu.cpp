#include "longlora/ops/swiglu.h"

#include <ATen/Parallel.h>

#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {

using namespace vec;

void swiglu_forward(const at::Tensor& gate_up_NG, at::Tensor& m_NF) {
  if constexpr (kWithKernels) {
    if (!m_NF.is_cpu()) return device::swiglu_forward(gate_up_NG, m_NF);
  }
  const int64_t rows = m_NF.size(0), width = m_NF.size(1);
  with_element_type(m_NF, [&]<class T>(T) {
    at::parallel_for(0, rows, row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* gate = gate_up_NG.const_data_ptr<T>() + n * gate_up_NG.stride(0);
        T* m = m_NF.data_ptr<T>() + n * m_NF.stride(0);
        for_lanes(width, [&](int64_t i, auto lanes) {
          const F8 g = load(gate + i, lanes);
          store(m + i, g * sigmoid(g) * load(gate + width + i, lanes), lanes);
        });
      }
    });
  });
}

void swiglu_backward(at::Tensor& gate_up_NG, const at::Tensor& d_m_NF) {
  if constexpr (kWithKernels) {
    if (!d_m_NF.is_cpu()) return device::swiglu_backward(gate_up_NG, d_m_NF);
  }
  const int64_t rows = d_m_NF.size(0), width = d_m_NF.size(1);
  with_element_type(d_m_NF, [&]<class T>(T) {
    at::parallel_for(0, rows, row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        T* gate = gate_up_NG.data_ptr<T>() + n * gate_up_NG.stride(0);
        const T* d_m = d_m_NF.const_data_ptr<T>() + n * d_m_NF.stride(0);
        for_lanes(width, [&](int64_t i, auto lanes) {
          const F8 g = load(gate + i, lanes), up = load(gate + width + i, lanes), d = load(d_m + i, lanes);
          const F8 s = sigmoid(g), silu = g * s;
          store(gate + i, d * up * (s + silu * (1.0f - s)), lanes);
          store(gate + width + i, d * silu, lanes);
        });
      }
    });
  });
}

}  // namespace longlora
