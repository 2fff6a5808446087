#pragma once
// Gated SiLU of the Llama MLP (Shazeer 2020): m = silu(gate) * up, forward and backward.
#include <ATen/core/Tensor.h>

namespace longlora {

///   m = gate * sigmoid(gate) * up
/// gate_up_NG   [rows, 2F]: gate in columns [0, F), up in [F, 2F); fp32|bf16, last stride 1
/// m_NF         [rows, F], dtype of the input
void swiglu_forward(const at::Tensor& gate_up_NG, at::Tensor& m_NF);

///   d_gate = d_m up (s + gate s (1 - s)),   d_up = d_m gate s,   s = sigmoid(gate)
/// Overwrites gate with d_gate and up with d_up.
void swiglu_backward(at::Tensor& gate_up_NG, const at::Tensor& d_m_NF);

}  // namespace longlora
