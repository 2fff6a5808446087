#pragma once
// From tensors to the launchers of longlora/kernels: pointers, strides, element types, and a refused launch as an error.
#include <ATen/core/Tensor.h>

#include "longlora/kernels/types.h"
#include "longlora/ops/accelerator.h"

namespace longlora::device {

kernels::ElementType element_type(const at::Tensor&);
/// Throws ErrorKind::internal naming operation, argument and problem.
void require(kernels::Launch, const char* operation);

inline kernels::Stream stream_of(const at::Tensor& t) { return accelerator::current_stream(t.device()); }
inline kernels::Rows rows_of(const at::Tensor& t_NX) { return {t_NX.data_ptr(), t_NX.stride(0)}; }

}  // namespace longlora::device
