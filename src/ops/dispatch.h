#pragma once
// Where an operation runs: CPU tensors take the code beside the operation, all others the kernels (ops/device), if this build has them.
// On the CPU a function is called with a value of the element type of a tensor: fp32 or bf16.
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <string>
#include <utility>

#include "longlora/core/error.h"
#include "ops/device/device_ops.h"

namespace longlora {

#ifdef LONGLORA_KERNELS
inline constexpr bool kWithKernels = true;
#else
inline constexpr bool kWithKernels = false;
#endif

/// Throws unless host code can read the tensor.
void require_host(const at::Tensor&, const char* operation);
/// Throws unless the tensor is on a device and this build has kernels.
void require_kernels(const at::Tensor&, const char* operation);

template <class F>
void with_element_type(const at::Tensor& t, F&& f) {
  require_host(t, "an operation of the CPU");
  if (t.scalar_type() == at::kFloat) return f(float{});
  if (t.scalar_type() == at::kBFloat16) return f(c10::BFloat16{});
  fail(ErrorKind::internal, std::string("element type ") + c10::toString(t.scalar_type()) + ", expected fp32 or bf16", "ops",
       "report this with the command and its output");
}

/// Rows a thread should take at least, so that it works on about 32,768 elements.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(width, 1)); }

}  // namespace longlora
