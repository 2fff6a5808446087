#include "longlora/kernels/rms_norm.h"

#include <ATen/ops/empty.h>

#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {
namespace {

kernels::RmsNorm parameters(const at::Tensor& x_NC, double eps) {
  return {.type = element_type(x_NC), .rows = x_NC.size(0), .width = x_NC.size(1), .eps = static_cast<float>(eps)};
}

}  // namespace

void rms_norm_forward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, at::Tensor& y_NC) {
  require(kernels::rms_norm_forward(parameters(x_NC, eps), rows_of(x_NC), weight_C.data_ptr(), rows_of(y_NC), stream_of(x_NC)),
          "rms_norm_forward");
}

void rms_norm_backward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, const at::Tensor& d_y_NC, at::Tensor& d_x_NC,
                       at::Tensor& d_weight_C, Accumulate accumulate) {
  const kernels::RmsNorm p = parameters(x_NC, eps);
  at::Tensor workspace;
  if (d_weight_C.defined()) workspace = at::empty({kernels::rms_norm_backward_workspace_bytes(p)}, x_NC.options().dtype(at::kByte));
  float* d_weight = d_weight_C.defined() ? d_weight_C.data_ptr<float>() : nullptr;
  require(kernels::rms_norm_backward(p, rows_of(x_NC), weight_C.data_ptr(), rows_of(d_y_NC), rows_of(d_x_NC), accumulate == Accumulate::yes,
                                     d_weight, workspace.defined() ? workspace.data_ptr() : nullptr, stream_of(x_NC)),
          "rms_norm_backward");
}

}  // namespace longlora::device
