#include "longlora/kernels/swiglu.h"

#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

void swiglu_forward(const at::Tensor& gate_up_NG, at::Tensor& m_NF) {
  const kernels::Swiglu p{.type = element_type(m_NF), .rows = m_NF.size(0), .width = m_NF.size(1)};
  require(kernels::swiglu_forward(p, rows_of(gate_up_NG), rows_of(m_NF), stream_of(m_NF)), "swiglu_forward");
}

void swiglu_backward(at::Tensor& gate_up_NG, const at::Tensor& d_m_NF) {
  const kernels::Swiglu p{.type = element_type(d_m_NF), .rows = d_m_NF.size(0), .width = d_m_NF.size(1)};
  require(kernels::swiglu_backward(p, rows_of(gate_up_NG), rows_of(d_m_NF), stream_of(d_m_NF)), "swiglu_backward");
}

}  // namespace longlora::device
