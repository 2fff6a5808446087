#pragma once
// Gated SiLU of the Llama MLP (Shazeer 2020) on a GPU. CPU: longlora/ops/swiglu.h.
//
//   m = gate s up,   d_gate = d_m up (s + gate s (1 - s)),   d_up = d_m gate s,   s = 1 / (1 + exp(-gate))
//
// gate_up  [rows, 2 F]: gate in columns [0, F), up in [F, 2 F); row stride >= 2 F
// Rows     any row stride, any alignment of the element; 16-byte accesses when bases and strides are multiples of 16 bytes (F as well: up
//          begins there)
// Maths    fp32, one rounding at the end
// Cost     (2 bytes a value, per row) forward 6 F, backward 10 F: bound by memory
// Errors   a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

struct Swiglu {
  ElementType type = ElementType::bf16;
  int64_t rows = 0, width = 0;  // F
};

/// m [rows, F] may be the gate (then with its stride).
Launch swiglu_forward(const Swiglu&, ConstRows gate_up, Rows m, Stream);

/// Overwrites gate with d_gate and up with d_up. d_m [rows, F] is read only and lies elsewhere.
Launch swiglu_backward(const Swiglu&, Rows gate_up, ConstRows d_m, Stream);

}  // namespace longlora::kernels
