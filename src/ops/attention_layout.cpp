// Refusals of the attention operator: layouts that the pattern does not allow, and calls whose tensors disagree with their layout.
#include <fmt/format.h>

#include "attention_pattern.h"
#include "ops/dispatch.h"

namespace longlora {
namespace {

void check_documents(const AttentionLayout& layout) {
  for (size_t row = 0; row < layout.document_starts.size(); ++row) {
    const std::vector<int64_t>& starts = layout.document_starts[row];
    const std::string where = fmt::format("document starts of row {}", row);
    if (starts.empty()) continue;
    LONGLORA_CHECK(starts.front() == 0, data, fmt::format("first document starts at {}, must be 0", starts.front()), where,
                   "let the first document begin with the row");
    for (size_t i = 0; i < starts.size(); ++i) {
      LONGLORA_CHECK(i == 0 || starts[i] > starts[i - 1], data, fmt::format("start {} follows {}", starts[i], starts[i - 1]), where,
                     "list the starts in strictly increasing order");
      LONGLORA_CHECK(starts[i] < layout.tokens, data, fmt::format("start {} is not below the row length {}", starts[i], layout.tokens),
                     where, "list only starts inside the row");
    }
  }
}

}  // namespace

void check_layout(const AttentionLayout& layout, int64_t num_heads, int64_t num_kv_heads) {
  LONGLORA_INVARIANT(layout.tokens >= 1 && num_kv_heads >= 1 && num_heads >= 1);
  LONGLORA_CHECK(num_heads % num_kv_heads == 0, config, fmt::format("{} heads are not a multiple of {} KV heads", num_heads, num_kv_heads),
                 "num_attention_heads", "use a model whose query heads are a multiple of its KV heads");
  check_documents(layout);
  if (layout.kind == AttentionKind::full) return;
  LONGLORA_CHECK(layout.group >= 2, config, fmt::format("got {}, must be at least 2", layout.group), "attention.group_size",
                 "use an even number of tokens");
  LONGLORA_CHECK(layout.group % 2 == 0, config, fmt::format("got {}, must be even", layout.group), "attention.group_size",
                 fmt::format("use {} or {}", layout.group - 1, layout.group + 1));
  LONGLORA_INVARIANT(layout.num_plain >= 0 && layout.num_plain <= num_heads);
  if (layout.kind != AttentionKind::s2_wrap) return;
  LONGLORA_CHECK(
      layout.tokens % layout.group == 0, config,
      fmt::format("s2_wrap needs a row length that is a multiple of the group, got {} tokens and group {}", layout.tokens, layout.group),
      "attention.kind", "use attention.kind: s2, or change the sequence length or the group");
  bool has_documents = false;
  for (const std::vector<int64_t>& starts : layout.document_starts) has_documents |= starts.size() > 1;
  LONGLORA_CHECK(!has_documents, config, "s2_wrap cannot separate documents in a row", "attention.kind", "use attention.kind: s2");
}

std::vector<int32_t> document_bounds(int64_t tokens, const std::vector<std::vector<int64_t>>& document_starts) {
  const size_t half = document_starts.size() * static_cast<size_t>(tokens);
  std::vector<int32_t> bounds(2 * half);
  for (size_t row = 0; row < document_starts.size(); ++row) {
    const std::vector<int64_t>& starts = document_starts[row];
    int32_t *begins = bounds.data() + row * static_cast<size_t>(tokens), *ends = begins + half;
    for (size_t d = 0; d < std::max<size_t>(1, starts.size()); ++d) {
      const int64_t begin = starts.empty() ? 0 : starts[d], end = d + 1 < starts.size() ? starts[d + 1] : tokens;
      std::fill(begins + begin, begins + end, static_cast<int32_t>(begin));
      std::fill(ends + begin, ends + end, static_cast<int32_t>(end));
    }
  }
  return bounds;
}

std::string attention_variant(const at::Device& device, at::ScalarType type, int64_t head_size) {
  if constexpr (kWithKernels) {
    if (!device.is_cpu()) return device::attention_kernel(type, head_size);
  }
  return "cpu";
}

int64_t attention_workspace_elements(int64_t rows, int64_t tokens, int64_t num_heads) { return rows * tokens * num_heads; }

namespace attention {
namespace {

void check_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o, const at::Tensor& lse) {
  LONGLORA_INVARIANT(q.dim() == 4 && k.dim() == 4 && lse.dim() == 3);
  LONGLORA_INVARIANT(o.sizes() == q.sizes() && v.sizes() == k.sizes());
  LONGLORA_INVARIANT(q.size(0) == k.size(0) && q.size(3) == k.size(3));
  LONGLORA_INVARIANT(lse.size(0) == q.size(0) && lse.size(1) == q.size(2) && lse.size(2) == q.size(1));
  LONGLORA_INVARIANT(q.scalar_type() == at::kFloat || q.scalar_type() == at::kBFloat16);
  LONGLORA_INVARIANT(k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type() && o.scalar_type() == q.scalar_type());
  LONGLORA_INVARIANT(lse.scalar_type() == at::kFloat);
  for (const at::Tensor* x : {&q, &k, &v, &o}) LONGLORA_INVARIANT(x->size(3) == 1 || x->stride(3) == 1);
}

void check_inside(const AttentionLayout& layout, const at::Tensor& q, const at::Tensor& k) {
  const int64_t q_end = layout.q_begin + q.size(1), k_end = layout.k_begin + k.size(1);
  LONGLORA_INVARIANT(layout.q_begin >= 0 && layout.k_begin >= 0 && q.size(1) >= 1 && k.size(1) >= 1);
  LONGLORA_INVARIANT(q_end <= layout.tokens && k_end <= layout.tokens);
  const bool whole = q.size(1) == layout.tokens && k.size(1) == layout.tokens;
  LONGLORA_CHECK(layout.kind != AttentionKind::s2_wrap || whole, config, "s2_wrap works on whole rows, got a window", "attention.kind",
                 "use attention.kind: s2 with halo streaming");
}

void check_documents_of(const AttentionLayout& layout, int64_t batch_rows) {
  const size_t rows = layout.document_starts.size();
  LONGLORA_CHECK(rows == 0 || rows == static_cast<size_t>(batch_rows), data,
                 fmt::format("document starts of {} rows for a batch of {}", rows, batch_rows), "document starts", "give one list a row");
}

/// The window of keys must hold everything that the window of queries sees.
void check_windows(const AttentionLayout& layout, const at::Tensor& q, const at::Tensor& k) {
  check_inside(layout, q, k);
  LONGLORA_INVARIANT(layout.q_begin + q.size(1) <= layout.k_begin + k.size(1));
  const Pattern pattern(layout, q.size(2), k.size(2));
  for (int64_t b = 0; b < q.size(0); ++b) {
    for (const int64_t head : {int64_t{0}, q.size(2) - 1}) {
      LONGLORA_INVARIANT(pattern.row(b).visible_from(layout.q_begin, pattern.shift_of(head)) >= layout.k_begin);
    }
  }
}

}  // namespace

void check_call(const AttentionLayout& layout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o,
                const at::Tensor& lse) {
  check_shapes(q, k, v, o, lse);
  check_layout(layout, q.size(2), k.size(2));
  LONGLORA_CHECK(q.size(3) <= kMaxHeadSize, config, fmt::format("head size {}, at most {} is supported", q.size(3), kMaxHeadSize),
                 "hidden_size / num_attention_heads", "use a model with smaller heads");
  check_documents_of(layout, q.size(0));
  check_windows(layout, q, k);
}

void check_key_call(const AttentionLayout& layout, const AttentionWindow& w) {
  check_shapes(w.q_BTHD, w.k_BTKD, w.v_BTKD, w.d_o_BTHD, w.lse_BHT);
  check_layout(layout, w.q_BTHD.size(2), w.k_BTKD.size(2));
  LONGLORA_INVARIANT(w.q_BTHD.size(3) <= kMaxHeadSize);
  check_documents_of(layout, w.q_BTHD.size(0));
  check_inside(layout, w.q_BTHD, w.k_BTKD);
}

}  // namespace attention
}  // namespace longlora
