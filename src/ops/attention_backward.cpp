// Causal attention inside segments, backward (docs/attention.md section 5): the calls. attention_schedule.h has the order of the work.
#include <cmath>
#include <numbers>

#include "attention_schedule.h"
#include "ops/dispatch.h"

namespace longlora {
namespace attention {
namespace {

/// Do the address ranges of two tensors meet? Interleaved views count as overlapping: the slower form is right for them too.
bool overlap(const at::Tensor& x, const at::Tensor& y) {
  const auto end_of = [](const at::Tensor& t) {
    int64_t last = 0;
    for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
    return static_cast<const char*>(t.data_ptr()) + (last + 1) * static_cast<int64_t>(t.element_size());
  };
  return static_cast<const char*>(x.data_ptr()) < end_of(y) && static_cast<const char*>(y.data_ptr()) < end_of(x);
}

}  // namespace
}  // namespace attention

void s2_attention_backward(const AttentionLayout& layout, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                           const at::Tensor& o_BTHD, const at::Tensor& lse_BHT, const at::Tensor& d_o_BTHD, at::Tensor& d_q_BTHD,
                           at::Tensor& d_k_BTKD, at::Tensor& d_v_BTKD, at::Tensor& workspace) {
  using namespace attention;
  check_call(layout, q_BTHD, k_BTKD, v_BTKD, o_BTHD, lse_BHT);
  check_call(layout, d_q_BTHD, d_k_BTKD, d_v_BTKD, d_o_BTHD, lse_BHT);
  LONGLORA_INVARIANT(d_q_BTHD.scalar_type() == q_BTHD.scalar_type() && d_q_BTHD.sizes() == q_BTHD.sizes() &&
                     d_k_BTKD.sizes() == k_BTKD.sizes());
  LONGLORA_INVARIANT(workspace.scalar_type() == at::kFloat && workspace.is_contiguous() &&
                     workspace.numel() >= attention_workspace_elements(q_BTHD.size(0), q_BTHD.size(1), q_BTHD.size(2)));
  if constexpr (kWithKernels) {
    if (!q_BTHD.is_cpu())
      return device::s2_attention_backward(layout, q_BTHD, k_BTKD, v_BTKD, o_BTHD, lse_BHT, d_o_BTHD, d_q_BTHD, d_k_BTKD, d_v_BTKD,
                                           workspace);
  }
  require_host(q_BTHD, "s2_attention_backward");
  const Pattern pattern(layout, q_BTHD.size(2), k_BTKD.size(2));
  const at::Tensor delta_BHT = workspace.narrow(0, 0, lse_BHT.numel()).view(lse_BHT.sizes());
  const double scale = 1.0 / std::sqrt(static_cast<double>(q_BTHD.size(3)));
  const BackwardCall call{pattern,
                          View(q_BTHD, layout.q_begin),
                          View(k_BTKD, layout.k_begin),
                          View(v_BTKD, layout.k_begin),
                          View(o_BTHD, layout.q_begin),
                          View(d_o_BTHD, layout.q_begin),
                          View(d_q_BTHD, layout.q_begin),
                          View(d_k_BTKD, layout.k_begin),
                          View(d_v_BTKD, layout.k_begin),
                          lse_BHT,
                          Statistic(delta_BHT),
                          q_BTHD.size(2),
                          BackwardTiles(q_BTHD.size(3)),
                          static_cast<float>(scale),
                          static_cast<float>(scale * std::numbers::log2e),
                          static_cast<float>(scale)};
  const BackwardSchedule schedule(call);
  if (call.q.is_bf16 || overlap(d_q_BTHD, q_BTHD)) return schedule.run_two_passes();
  schedule.run_fused();
}

}  // namespace longlora
