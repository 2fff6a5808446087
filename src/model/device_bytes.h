#pragma once
// Tensors as what a communicator moves.
#include <ATen/core/Tensor.h>

#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"
#include "longlora/ops/accelerator.h"

namespace longlora {

inline dist::Memory memory_of(const at::Tensor& t) { return t.is_cpu() ? dist::Memory::host : dist::Memory::device; }
inline dist::Stream stream_of(const at::Tensor& t) { return t.is_cpu() ? nullptr : accelerator::current_stream(t.device()); }

inline dist::ConstBuffer const_bytes_of(const at::Tensor& t) {
  LONGLORA_INVARIANT(t.is_contiguous());
  return {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes(), memory_of(t)};
}
inline dist::Buffer bytes_of(at::Tensor& t) {
  LONGLORA_INVARIANT(t.is_contiguous());
  return {static_cast<std::byte*>(t.mutable_data_ptr()), t.nbytes(), memory_of(t)};
}

}  // namespace longlora
