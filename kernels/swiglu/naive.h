#pragma once
// The definition, one thread an output. Arguments as in longlora/kernels/swiglu.h, unchecked.
#include "longlora/kernels/swiglu.h"

namespace longlora::kernels::naive {

Launch swiglu_forward(const Swiglu&, ConstRows gate_up, Rows m, Stream);
Launch swiglu_backward(const Swiglu&, Rows gate_up, ConstRows d_m, Stream);

}  // namespace longlora::kernels::naive
