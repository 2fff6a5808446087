#pragma once
// Calls a function with a value of the element type of a tensor: fp32 or bf16, the two compute types of the CPU.
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <string>
#include <utility>

#include "longlora/core/error.h"

namespace longlora {

template <class F>
void with_element_type(const at::Tensor& t, F&& f) {
  if (t.scalar_type() == at::kFloat) return f(float{});
  if (t.scalar_type() == at::kBFloat16) return f(c10::BFloat16{});
  fail(ErrorKind::internal, std::string("element type ") + c10::toString(t.scalar_type()) + ", expected fp32 or bf16", "ops",
       "report this with the command and its output");
}

/// Rows a thread should take at least, so that it works on about 32,768 elements.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(width, 1)); }

}  // namespace longlora
