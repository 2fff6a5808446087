#pragma once
// Memory that is allocated once and viewed many times: no allocation in later steps of the same shape.
#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>
#include <c10/util/ArrayRef.h>

namespace longlora {

/// Does a result replace its destination or is it added to it?
enum class Accumulate { no, yes };

/// A grow-only allocation, or a place in an arena, which never grows: a plan has its bytes. Contents are undefined after `view`; views of
/// the same buffer overlap by construction.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(at::Tensor bytes) : flat_(std::move(bytes)), is_planned_(true) {}  // one-dimensional, of bytes; undefined: 0 bytes
  /// A contiguous tensor of these sizes at the start of the buffer, of the dtype and on the device of the options; valid until a larger
  /// view is asked for. ErrorKind::internal when a planned buffer is too small.
  at::Tensor view(at::IntArrayRef sizes, const at::TensorOptions&);
  int64_t bytes() const { return flat_.defined() ? flat_.numel() : 0; }

 private:
  at::Tensor flat_;  // bytes
  bool is_planned_ = false;
};

}  // namespace longlora
