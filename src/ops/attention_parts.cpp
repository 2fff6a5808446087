// Causal attention inside segments, backward in parts: windows of keys and of queries as calls of their own.
#include <cmath>
#include <numbers>

#include "attention_schedule.h"
#include "ops/dispatch.h"

namespace longlora {
namespace attention {
namespace {

/// A call that writes d_k and d_v; o and d_q stand for nothing.
BackwardCall part_call(const Pattern& pattern, const AttentionLayout& layout, const AttentionWindow& w, const at::Tensor& d_q,
                       const at::Tensor& d_k, const at::Tensor& d_v, const AttentionCarry& start, float key_factor) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(w.q_BTHD.size(3)));
  BackwardCall call{pattern,
                    View(w.q_BTHD, layout.q_begin),
                    View(w.k_BTKD, layout.k_begin),
                    View(w.v_BTKD, layout.k_begin),
                    View(w.d_o_BTHD, layout.q_begin),
                    View(w.d_o_BTHD, layout.q_begin),
                    View(d_q, layout.q_begin),
                    View(d_k, layout.k_begin),
                    View(d_v, layout.k_begin),
                    w.lse_BHT,
                    Statistic(w.delta_BHT),
                    w.q_BTHD.size(2),
                    BackwardTiles(w.q_BTHD.size(3)),
                    static_cast<float>(scale),
                    static_cast<float>(scale * std::numbers::log2e),
                    key_factor};
  if (start.d_k_BTKD.defined()) call.start = {View(start.d_k_BTKD, layout.k_begin), View(start.d_v_BTKD, layout.k_begin)};
  return call;
}

void check_sums(const AttentionWindow& w, const AttentionCarry& sums) {
  for (const at::Tensor* x : {&sums.d_k_BTKD, &sums.d_v_BTKD})
    LONGLORA_INVARIANT(x->sizes() == w.k_BTKD.sizes() && x->scalar_type() == at::kFloat && x->stride(3) == 1);
}

void check_keys(const AttentionLayout& layout, const AttentionWindow& w, const AttentionCarry& start) {
  check_key_call(layout, w);
  LONGLORA_INVARIANT(w.delta_BHT.sizes() == w.lse_BHT.sizes() && w.delta_BHT.stride(2) == 1);
  if (start.d_k_BTKD.defined()) check_sums(w, start);
}

void run_keys(const AttentionLayout& layout, const AttentionWindow& w, const AttentionCarry& start, const at::Tensor& d_k,
              const at::Tensor& d_v, float key_factor) {
  require_host(w.q_BTHD, "s2_attention_backward_keys");
  const Pattern pattern(layout, w.q_BTHD.size(2), w.k_BTKD.size(2));
  const BackwardCall call = part_call(pattern, layout, w, w.q_BTHD, d_k, d_v, start, key_factor);
  BackwardSchedule(call).run_keys();
}

}  // namespace
}  // namespace attention

void s2_attention_delta(const AttentionLayout& layout, const at::Tensor& o_BTHD, const at::Tensor& d_o_BTHD, at::Tensor& delta_BHT) {
  using namespace attention;
  LONGLORA_INVARIANT(o_BTHD.sizes() == d_o_BTHD.sizes() && o_BTHD.scalar_type() == d_o_BTHD.scalar_type());
  LONGLORA_INVARIANT(delta_BHT.size(1) == o_BTHD.size(2) && delta_BHT.size(2) == o_BTHD.size(1) && delta_BHT.stride(2) == 1);
  if constexpr (kWithKernels) {
    if (!o_BTHD.is_cpu()) return device::s2_attention_delta(layout, o_BTHD, d_o_BTHD, delta_BHT);
  }
  require_host(o_BTHD, "s2_attention_delta");
  const View o(o_BTHD, 0), d_o(d_o_BTHD, 0);
  const Statistic delta(delta_BHT);
  const int64_t rows = o_BTHD.size(0), tokens = o_BTHD.size(1), num_heads = o_BTHD.size(2);
  at::parallel_for(0, rows * tokens, row_grain(num_heads * o.head_size), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t head = 0; head < num_heads; ++head)
        delta.data[n / tokens * delta.row_stride + head * delta.head_stride + n % tokens] = dot(o, d_o, n / tokens, n % tokens, head);
  });
}

void s2_attention_backward_keys(const AttentionLayout& layout, const AttentionWindow& w, const AttentionCarry& start, at::Tensor& d_k_BTKD,
                                at::Tensor& d_v_BTKD) {
  using namespace attention;
  check_keys(layout, w, start);
  LONGLORA_INVARIANT(d_k_BTKD.sizes() == w.k_BTKD.sizes() && d_v_BTKD.sizes() == w.k_BTKD.sizes());
  if constexpr (kWithKernels) {
    if (!w.q_BTHD.is_cpu()) return device::s2_attention_backward_keys(layout, w, start, d_k_BTKD, d_v_BTKD, {});
  }
  run_keys(layout, w, start, d_k_BTKD, d_v_BTKD, static_cast<float>(1.0 / std::sqrt(static_cast<double>(w.q_BTHD.size(3)))));
}

void s2_attention_key_sums(const AttentionLayout& layout, const AttentionWindow& w, const AttentionCarry& start, AttentionCarry& sums) {
  using namespace attention;
  check_keys(layout, w, start);
  check_sums(w, sums);
  if constexpr (kWithKernels) {
    if (!w.q_BTHD.is_cpu()) return device::s2_attention_backward_keys(layout, w, start, {}, {}, sums);
  }
  run_keys(layout, w, start, sums.d_k_BTKD, sums.d_v_BTKD, 1.0f);
}

void s2_attention_backward_queries(const AttentionLayout& layout, const AttentionWindow& w, at::Tensor& d_q_BTHD) {
  using namespace attention;
  check_call(layout, w.q_BTHD, w.k_BTKD, w.v_BTKD, w.d_o_BTHD, w.lse_BHT);
  LONGLORA_INVARIANT(w.delta_BHT.sizes() == w.lse_BHT.sizes() && w.delta_BHT.stride(2) == 1 && d_q_BTHD.sizes() == w.q_BTHD.sizes());
  if constexpr (kWithKernels) {
    if (!w.q_BTHD.is_cpu()) return device::s2_attention_backward_queries(layout, w, d_q_BTHD);
  }
  require_host(w.q_BTHD, "s2_attention_backward_queries");
  const Pattern pattern(layout, w.q_BTHD.size(2), w.k_BTKD.size(2));
  const BackwardCall call = part_call(pattern, layout, w, d_q_BTHD, w.k_BTKD, w.v_BTKD, {}, 0.0f);
  BackwardSchedule(call).run_queries();
}

}  // namespace longlora
