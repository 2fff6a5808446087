#include "longlora/kernels/cross_entropy.h"

#include <ATen/ops/zeros.h>

#include "longlora/core/error.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {
namespace {

kernels::CrossEntropy parameters(const at::Tensor& logits_NV) {
  return {.rows = logits_NV.size(0), .vocabulary = logits_NV.size(1), .logits_type = element_type(logits_NV)};
}

}  // namespace

void cross_entropy_forward(const at::Tensor& logits_NV, const IntList& labels, at::Tensor& nll_N) {
  const at::Tensor there = labels.on(logits_NV.device());
  require(kernels::cross_entropy(parameters(logits_NV), rows_of(logits_NV), there.data_ptr<int32_t>(), nll_N.data_ptr<float>(),
                                 stream_of(logits_NV)),
          "cross_entropy_forward");
}

at::Tensor cross_entropy_forward_backward(at::Tensor& logits_NV, const IntList& labels, float scale, at::ScalarType d_type,
                                          at::Tensor& nll_N) {
  LONGLORA_INVARIANT(logits_NV.is_contiguous());
  const at::Tensor there = labels.on(logits_NV.device());
  // in place: the gradient's rows begin where the logits' rows do, and are not longer
  at::Tensor d_logits_NV = logits_NV.view(d_type).narrow(1, 0, logits_NV.size(1));
  require(kernels::cross_entropy_backward(parameters(logits_NV), rows_of(logits_NV), there.data_ptr<int32_t>(), scale,
                                          nll_N.data_ptr<float>(), element_type(d_logits_NV), stream_of(logits_NV)),
          "cross_entropy_backward");
  return d_logits_NV;
}

at::Tensor sum_of(const at::Tensor& nll_N) {
  at::Tensor sum = at::zeros({1}, nll_N.options().dtype(at::kDouble));
  if (nll_N.numel() == 0) return sum;
  require(kernels::add_nll(nll_N.data_ptr<float>(), nll_N.numel(), sum.data_ptr<double>(), stream_of(nll_N)), "add_nll");
  return sum;
}

}  // namespace longlora::device
