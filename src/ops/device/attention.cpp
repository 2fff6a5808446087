#include "longlora/ops/attention.h"

#include <string>

#include "longlora/core/error.h"
#include "longlora/kernels/s2_attention.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {
namespace {

kernels::HeadView view_of(const at::Tensor& x_BTHD) {
  return {.data = x_BTHD.data_ptr(), .row = x_BTHD.stride(0), .token = x_BTHD.stride(1), .head = x_BTHD.stride(2)};
}
kernels::StatisticsView statistics_of(const at::Tensor& x_BHT) {
  return {.data = x_BHT.data_ptr<float>(), .row = x_BHT.stride(0), .head = x_BHT.stride(1)};
}

kernels::Carry carry_of(const AttentionCarry& carry) {
  if (!carry.d_k_BTKD.defined()) return {};
  return {view_of(carry.d_k_BTKD), view_of(carry.d_v_BTKD)};
}

/// First position and end of the document of every position, [2, B, T]; undefined when every row is one document.
at::Tensor bounds_of(const AttentionLayout& layout, const at::Device& device) {
  if (layout.document_bounds.defined() || layout.document_starts.empty()) return layout.document_bounds;
  return upload(std::span<const int32_t>(document_bounds(layout.tokens, layout.document_starts)), device);
}

kernels::S2Shape shape_of(const AttentionLayout& layout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& bounds) {
  const bool full = layout.kind == AttentionKind::full;
  kernels::S2Shape s{.type = element_type(q),
                     .rows = q.size(0),
                     .tokens = layout.tokens,
                     .group = full ? 2 * layout.tokens : std::min(layout.group, 2 * layout.tokens),
                     .num_heads = q.size(2),
                     .num_kv_heads = k.size(2),
                     .num_plain = full ? q.size(2) : layout.num_plain,
                     .head_size = q.size(3),
                     .wraps = layout.kind == AttentionKind::s2_wrap,
                     .q_begin = layout.q_begin,
                     .q_end = layout.q_begin + q.size(1),
                     .k_begin = layout.k_begin,
                     .k_end = layout.k_begin + k.size(1)};
  if (!bounds.defined()) return s;
  LONGLORA_INVARIANT(bounds.numel() == 2 * s.rows * s.tokens);
  s.document_begin = bounds.data_ptr<int32_t>();
  s.document_end = s.document_begin + s.rows * s.tokens;
  return s;
}

}  // namespace

std::string attention_kernel(at::ScalarType type, int64_t head_size) {
  kernels::S2Shape s{.type = type == at::kFloat ? kernels::ElementType::fp32 : kernels::ElementType::bf16};
  s.rows = s.num_heads = s.num_kv_heads = s.num_plain = 1;
  s.tokens = s.q_end = s.k_end = 256;
  s.group = 2 * s.tokens;
  s.head_size = head_size;
  return kernels::name_of(kernels::attention_variant(s));
}

void s2_attention_forward(const AttentionLayout& layout, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                          at::Tensor& o_BTHD, at::Tensor& lse_BHT) {
  const at::Tensor bounds = bounds_of(layout, q_BTHD.device());
  require(kernels::s2_attention_forward(shape_of(layout, q_BTHD, k_BTKD, bounds), view_of(q_BTHD), view_of(k_BTKD), view_of(v_BTKD),
                                        view_of(o_BTHD), statistics_of(lse_BHT), stream_of(q_BTHD)),
          "s2_attention_forward");
}

void s2_attention_backward(const AttentionLayout& layout, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                           const at::Tensor& o_BTHD, const at::Tensor& lse_BHT, const at::Tensor& d_o_BTHD, at::Tensor& d_q_BTHD,
                           at::Tensor& d_k_BTKD, at::Tensor& d_v_BTKD, at::Tensor& workspace) {
  AttentionLayout once = layout;
  once.document_bounds = bounds_of(layout, q_BTHD.device());
  at::Tensor delta_BHT = workspace.view({q_BTHD.size(0), q_BTHD.size(2), q_BTHD.size(1)});
  device::s2_attention_delta(once, o_BTHD, d_o_BTHD, delta_BHT);
  const AttentionWindow window{q_BTHD, k_BTKD, v_BTKD, d_o_BTHD, lse_BHT, delta_BHT};
  device::s2_attention_backward_keys(once, window, {}, d_k_BTKD, d_v_BTKD, {});
  device::s2_attention_backward_queries(once, window, d_q_BTHD);  // last: d_q may be q
}

void s2_attention_delta(const AttentionLayout& layout, const at::Tensor& o_BTHD, const at::Tensor& d_o_BTHD, at::Tensor& delta_BHT) {
  AttentionLayout queries = layout;
  queries.k_begin = layout.q_begin;
  const at::Tensor bounds = bounds_of(layout, o_BTHD.device());
  require(kernels::s2_attention_delta(shape_of(queries, o_BTHD, o_BTHD, bounds), view_of(o_BTHD), view_of(d_o_BTHD),
                                      statistics_of(delta_BHT), stream_of(o_BTHD)),
          "s2_attention_backward");
}

void s2_attention_backward_keys(const AttentionLayout& layout, const AttentionWindow& w, const AttentionCarry& start,
                                const at::Tensor& d_k_BTKD, const at::Tensor& d_v_BTKD, const AttentionCarry& sums) {
  const at::Tensor bounds = bounds_of(layout, w.q_BTHD.device());
  kernels::S2BackwardKv kv{.q = view_of(w.q_BTHD),
                           .k = view_of(w.k_BTKD),
                           .v = view_of(w.v_BTKD),
                           .d_o = view_of(w.d_o_BTHD),
                           .lse = statistics_of(w.lse_BHT),
                           .delta = statistics_of(w.delta_BHT),
                           .carry_in = carry_of(start),
                           .carry_out = carry_of(sums)};
  if (d_k_BTKD.defined()) kv.d_k = view_of(d_k_BTKD), kv.d_v = view_of(d_v_BTKD);
  require(kernels::s2_attention_backward_kv(shape_of(layout, w.q_BTHD, w.k_BTKD, bounds), kv, stream_of(w.q_BTHD)),
          "s2_attention_backward");
}

void s2_attention_backward_queries(const AttentionLayout& layout, const AttentionWindow& w, at::Tensor& d_q_BTHD) {
  const at::Tensor bounds = bounds_of(layout, w.q_BTHD.device());
  const kernels::S2BackwardQ dq{.q = view_of(w.q_BTHD),
                                .k = view_of(w.k_BTKD),
                                .v = view_of(w.v_BTKD),
                                .d_o = view_of(w.d_o_BTHD),
                                .d_q = view_of(d_q_BTHD),
                                .lse = statistics_of(w.lse_BHT),
                                .delta = statistics_of(w.delta_BHT)};
  require(kernels::s2_attention_backward_q(shape_of(layout, w.q_BTHD, w.k_BTKD, bounds), dq, stream_of(w.q_BTHD)), "s2_attention_backward");
}

}  // namespace longlora::device
