#include "longlora/ops/optimizer.h"

#include "longlora/core/error.h"
#include "longlora/kernels/optimizer.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {
namespace {

static_assert(sizeof(kernels::UpdateControl) == 8);

}  // namespace

void square_sums(const at::Tensor& gradient, const at::Tensor& blocks) {
  LONGLORA_INVARIANT(gradient.is_contiguous() && blocks.numel() == kernels::norm_blocks(gradient.numel()));
  require(kernels::sum_of_squares(gradient.data_ptr<float>(), gradient.numel(), blocks.data_ptr<double>(), stream_of(gradient)),
          "gradient_norm");
}

void finish_norm(const at::Tensor& blocks, const at::Tensor& norm) {
  require(kernels::gradient_norm(blocks.data_ptr<double>(), blocks.numel(), norm.data_ptr<double>(), stream_of(norm)), "gradient_norm");
}

void control_update(const at::Tensor& norm, double max_norm, const at::Tensor& control) {
  auto* there = static_cast<kernels::UpdateControl*>(control.data_ptr());
  require(kernels::clip_control(norm.data_ptr<double>(), max_norm, there, stream_of(norm)), "clip_control");
}

void adamw_update(const AdamwNumbers& n, const at::Tensor& master, const at::Tensor& gradient, const at::Tensor& m, const at::Tensor& v,
                  const at::Tensor& weight, const at::Tensor& control) {
  LONGLORA_INVARIANT(master.is_contiguous() && gradient.is_contiguous() && m.is_contiguous() && v.is_contiguous());
  const kernels::Adamw p{
      .beta1 = n.beta1, .beta2 = n.beta2, .keep = n.keep, .step_size = n.step_size, .root_correction = n.root_correction, .eps = n.eps};
  void* copy = weight.data_ptr() == master.data_ptr() ? nullptr : weight.data_ptr();
  LONGLORA_INVARIANT(copy == nullptr || weight.is_contiguous());
  require(kernels::adamw(p, master.numel(), master.data_ptr<float>(), gradient.data_ptr<float>(), m.data_ptr<float>(), v.data_ptr<float>(),
                         copy, element_type(weight), /*zero_grad=*/false, static_cast<const kernels::UpdateControl*>(control.data_ptr()),
                         stream_of(master)),
          "adamw");
}

}  // namespace longlora::device
