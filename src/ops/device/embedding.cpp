#include "longlora/kernels/embedding.h"

#include "longlora/core/error.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

void embedding_forward(const at::Tensor& weight_VC, const IntList& ids, at::Tensor& x_NC) {
  LONGLORA_INVARIANT(weight_VC.is_contiguous());
  const at::Tensor there = ids.on(x_NC.device());
  require(kernels::embedding_forward(element_type(weight_VC), ids.size(), weight_VC.size(1), weight_VC.data_ptr(),
                                     there.data_ptr<int32_t>(), rows_of(x_NC), stream_of(x_NC)),
          "embedding_forward");
}

void embedding_backward(const IntList& ids, const at::Tensor& d_x_NC, at::Tensor& d_weight_VC) {
  LONGLORA_INVARIANT(d_weight_VC.is_contiguous());
  const at::Device where = d_x_NC.device();
  const kernels::TokenRows sorted = kernels::sort_tokens(ids.host());
  const at::Tensor unique_ids = upload(std::span<const int32_t>(sorted.unique_ids), where),
                   offsets = upload(std::span<const int32_t>(sorted.offsets), where),
                   positions = upload(std::span<const int32_t>(sorted.positions), where);
  require(kernels::embedding_backward(element_type(d_x_NC), unique_ids.numel(), d_x_NC.size(1), unique_ids.data_ptr<int32_t>(),
                                      offsets.data_ptr<int32_t>(), positions.data_ptr<int32_t>(), rows_of(d_x_NC),
                                      d_weight_VC.data_ptr<float>(), stream_of(d_x_NC)),
          "embedding_backward");
}

}  // namespace longlora::device
