#pragma once
// What the CPU attention needs to know about one call: positions, boundaries of every row, views by position.
//
// Legend: B rows, T tokens, H query heads, K key/value heads, D head size, Dp = D rounded up to whole panels of 16.
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/kernels/s2_layout.h"
#include "longlora/ops/attention.h"

namespace longlora::attention {

inline constexpr int64_t kMaxHeadSize = 2048;  // beyond it the smallest tiles leave the scratch of a thread

/// Boundaries of one row: the index map with the documents of this row.
class RowMap {
 public:
  RowMap(int64_t tokens, int64_t group, const std::vector<int64_t>* starts) : tokens_(tokens), group_(group), starts_(starts) {}

  int64_t visible_from(int64_t position, Shift shift) const { return segment_of(position, document(position), group_, shift).begin; }
  int64_t segment_end(int64_t position, Shift shift) const { return segment_of(position, document(position), group_, shift).end; }

 private:
  Segment document(int64_t position) const {
    if (starts_ == nullptr || starts_->empty()) return {0, tokens_};
    const auto next = std::upper_bound(starts_->begin(), starts_->end(), position);
    return {*(next - 1), next == starts_->end() ? tokens_ : *next};
  }

  int64_t tokens_, group_;
  const std::vector<int64_t>* starts_;
};

/// A layout with its head counts. A group beyond 2T is the same as 2T, and so is `full`.
class Pattern {
 public:
  Pattern(const AttentionLayout& layout, int64_t num_heads, int64_t num_kv_heads)
      : layout_(layout),
        heads_per_kv(num_heads / num_kv_heads),
        group(layout.kind == AttentionKind::full ? 2 * layout.tokens : std::min(layout.group, 2 * layout.tokens)) {}

  Shift shift_of(int64_t head) const {
    return layout_.kind == AttentionKind::full || head < layout_.num_plain ? Shift::none : Shift::half_group;
  }
  bool wraps(int64_t head) const { return layout_.kind == AttentionKind::s2_wrap && shift_of(head) == Shift::half_group; }
  bool has_wrap() const { return layout_.kind == AttentionKind::s2_wrap; }
  RowMap row(int64_t b) const {
    return {layout_.tokens, group, layout_.document_starts.empty() ? nullptr : &layout_.document_starts[static_cast<size_t>(b)]};
  }
  int64_t tokens() const { return layout_.tokens; }

 private:
  const AttentionLayout& layout_;

 public:
  const int64_t heads_per_kv;
  const int64_t group;
};

/// A [B, T, heads, D] tensor addressed by absolute position: holds positions [begin, end).
struct View {
  View(const at::Tensor& x, int64_t begin_position)
      : data(x.data_ptr()),
        is_bf16(x.scalar_type() == at::kBFloat16),
        begin(begin_position),
        end(begin_position + x.size(1)),
        head_size(x.size(3)),
        row_stride(x.stride(0)),
        token_stride(x.stride(1)),
        head_stride(x.stride(2)) {}

  template <class T>
  T* at(int64_t b, int64_t position, int64_t head) const {
    return static_cast<T*>(data) + b * row_stride + (position - begin) * token_stride + head * head_stride;
  }

  void* data;
  bool is_bf16;
  int64_t begin, end, head_size, row_stride, token_stride, head_stride;
};

/// Rows of a query tile and the keys [from, to) each of them may see; both nondecreasing.
struct RowBounds {
  static constexpr int64_t kMaxRows = 288;
  int64_t count = 0;
  int64_t from[kMaxRows], to[kMaxRows];

  bool empty() const { return count == 0; }
  int64_t first_key() const { return from[0]; }
  int64_t end_key() const { return to[count - 1]; }
};

enum class Band { causal, wrap };  // the keys of the own segment, and the second range of s2_wrap

/// Bounds of rows [begin, end) in one band; in the wrap band only the rows below g/2 take part.
inline RowBounds row_bounds(const Pattern& pattern, const RowMap& map, Shift shift, Band band, int64_t begin, int64_t end) {
  RowBounds bounds;
  if (band == Band::wrap) {
    const Segment keys = wrap_keys(pattern.tokens(), pattern.group);
    bounds.count = std::max<int64_t>(0, std::min(end, wrap_queries(pattern.group).end) - begin);
    std::fill_n(bounds.from, bounds.count, keys.begin);
    std::fill_n(bounds.to, bounds.count, keys.end);
    return bounds;
  }
  bounds.count = end - begin;
  for (int64_t i = 0, segment_end = 0; i < bounds.count; ++i) {  // one look-up a segment, not a row
    const int64_t position = begin + i;
    const bool same_segment = position < segment_end;
    bounds.from[i] = same_segment ? bounds.from[i - 1] : map.visible_from(position, shift);
    if (!same_segment) segment_end = map.segment_end(position, shift);
    bounds.to[i] = position + 1;
    LONGLORA_INVARIANT(bounds.from[i] < bounds.to[i]);  // every row keeps at least its diagonal pair
  }
  return bounds;
}

/// Throws unless shapes, types and windows of a call agree with its layout.
void check_call(const AttentionLayout&, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                const at::Tensor& o_BTHD, const at::Tensor& lse_BHT);
/// The same for a pass over keys, whose queries may also see keys outside the window.
void check_key_call(const AttentionLayout&, const AttentionWindow&);

}  // namespace longlora::attention
