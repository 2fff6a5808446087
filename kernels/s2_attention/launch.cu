// Checks of a call, and the choice of the kernel.
#include <cmath>

#include "s2_attention/variants.h"

namespace longlora::kernels {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;  // positions and their sums stay in 31 bits

Launch check_pattern(const S2Shape& s) {
  if (s.rows < 1 || s.rows > kMaxTokens) return {"rows", "must be at least 1"};
  if (s.tokens < 1 || s.tokens > kMaxTokens) return {"tokens", "must be between 1 and 2^30"};
  if (s.group < 2 || s.group % 2 != 0) return {"group", "must be even and at least 2"};
  if (s.num_kv_heads < 1 || s.num_heads < 1 || s.num_heads % s.num_kv_heads != 0)
    return {"num_heads", "must be a multiple of num_kv_heads"};
  if (s.num_plain < 0 || s.num_plain > s.num_heads) return {"num_plain", "must lie between 0 and num_heads"};
  if ((s.document_begin == nullptr) != (s.document_end == nullptr)) return {"document_begin", "comes with document_end, or neither does"};
  if (s.q_begin < 0 || s.q_begin >= s.q_end || s.q_end > s.tokens) return {"q_begin", "the window of queries must lie in the row"};
  if (s.k_begin < 0 || s.k_begin >= s.k_end || s.k_end > s.tokens) return {"k_begin", "the window of keys must lie in the row"};
  if (!s.wraps) return {};
  if (s.tokens % s.group != 0) return {"wraps", "needs a row length that is a multiple of the group"};
  if (s.document_begin != nullptr) return {"wraps", "cannot separate documents"};
  if (s.q_begin != 0 || s.k_begin != 0 || s.q_end != s.tokens || s.k_end != s.tokens) return {"wraps", "works on whole rows"};
  return {};
}

Launch check_variant(const S2Shape& s) {
  if (attention_variant(s) == AttentionVariant::sm80) {
    if (s.type == ElementType::fp32) return {"variant", "the tensor-core kernels take bf16 and fp16"};
    if (s.head_size != 64 && s.head_size != 128) return {"head_size", "the tensor-core kernels take 64 and 128"};
    return {};
  }
  if (s.head_size < 1 || s.head_size > kPlainMaxHeadSize) return {"head_size", "must lie between 1 and 256"};
  return {};
}

Launch check_view(const S2Shape& s, const HeadView& v, const char* name) {
  if (v.data == nullptr) return {name, "is null"};
  const auto address = reinterpret_cast<uintptr_t>(v.data);
  if (address % static_cast<uintptr_t>(element_bytes(s.type)) != 0) return {name, "is not aligned to its elements"};
  if (attention_variant(s) != AttentionVariant::sm80) return {};
  if (address % 16 != 0) return {name, "must be aligned to 16 bytes"};
  if (v.row % 8 != 0 || v.token % 8 != 0 || v.head % 8 != 0) return {name, "has a stride that is not a multiple of 8 elements"};
  return {};
}

struct Named {
  const HeadView& view;
  const char* name;
};
template <class... Views>
Launch check_call(const S2Shape& s, std::initializer_list<Named> views, Views&&... statistics) {
  for (const Launch& l : {check_pattern(s), check_variant(s)})
    if (!l.ok()) return l;
  for (const Named& n : views)
    if (const Launch l = check_view(s, n.view, n.name); !l.ok()) return l;
  if (((statistics.data == nullptr) || ...)) return {"lse", "or delta is null"};
  return {};
}

Pattern pattern_of(const S2Shape& s) {
  const auto i = [](int64_t x) { return static_cast<int>(x); };
  const int64_t group = s.group < 2 * s.tokens ? s.group : 2 * s.tokens;  // from there on every pattern is full causal attention
  return {i(s.rows),    i(s.tokens), i(group),     i(s.num_heads), i(s.num_kv_heads), i(s.num_plain),   i(s.head_size),
          i(s.q_begin), i(s.q_end),  i(s.k_begin), i(s.k_end),     s.wraps,           s.document_begin, s.document_end};
}

/// No tile needs a test at the left edge of a segment.
bool aligned(const S2Shape& s) {
  if (s.wraps || s.document_begin != nullptr) return false;
  return s.group >= 2 * s.tokens || is_aligned(s.group, kAttentionTile, kAttentionTile);
}

float scale_of(const S2Shape& s) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_size))); }
float scale_log2_of(const S2Shape& s) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_size)) * 1.4426950408889634074);
}

template <class Kernel>
Launch launch_lines(const typename Kernel::Params& params, int64_t lines, Stream stream) {
  return device::launch<Kernel>((lines + PlainLine::kPerBlock - 1) / PlainLine::kPerBlock, 0, params, stream);
}

template <template <class> class Kernel>
Launch launch_plain(ElementType type, const typename Kernel<float>::Params& params, int64_t lines, Stream stream) {
  if (type == ElementType::fp32) return launch_lines<Kernel<float>>(params, lines, stream);
  if (type == ElementType::bf16) return launch_lines<Kernel<device::bf16>>(params, lines, stream);
  return launch_lines<Kernel<device::fp16>>(params, lines, stream);
}

BackwardParams backward_params(const S2Shape& s) {
  BackwardParams p{};
  p.pattern = pattern_of(s);
  p.scale = scale_of(s);
  p.scale_log2 = scale_log2_of(s);
  return p;
}

template <class E, int D>
Launch launch_delta(const S2Shape& s, HeadView o, HeadView d_o, StatisticsView delta, Stream stream) {
  using Kernel = DeltaSm80<E, D>;
  const Pattern a = pattern_of(s);
  return device::launch<Kernel>(Kernel::num_blocks(s.rows, s.q_end - s.q_begin, s.num_heads), 0,
                                {a.rows, a.num_heads, a.head_size, a.q_begin, a.q_end, o, d_o, delta}, stream);
}

}  // namespace

AttentionVariant attention_variant(const S2Shape& s) {
  if (s.variant != AttentionVariant::automatic) return s.variant;
  const bool fits = s.type != ElementType::fp32 && (s.head_size == 64 || s.head_size == 128);
  return fits ? AttentionVariant::sm80 : AttentionVariant::plain;
}

const char* name_of(AttentionVariant v) {
  return v == AttentionVariant::sm80 ? "sm80" : v == AttentionVariant::plain ? "plain" : "automatic";
}

Launch s2_attention_forward(const S2Shape& s, HeadView q, HeadView k, HeadView v, HeadView o, StatisticsView lse, Stream stream) {
  if (const Launch l = check_call(s, {{q, "q"}, {k, "k"}, {v, "v"}, {o, "o"}}, lse); !l.ok()) return l;
  const ForwardParams p{pattern_of(s), q, k, v, o, lse, scale_log2_of(s), 0, 0};
  if (attention_variant(s) == AttentionVariant::plain)
    return launch_plain<ForwardPlain>(s.type, p, s.rows * s.num_heads * (s.q_end - s.q_begin), stream);
  return s.type == ElementType::bf16 ? Sm80<device::bf16>::forward(p, aligned(s), stream)
                                     : Sm80<device::fp16>::forward(p, aligned(s), stream);
}

Launch s2_attention_delta(const S2Shape& s, HeadView o, HeadView d_o, StatisticsView delta, Stream stream) {
  if (const Launch l = check_call(s, {{o, "o"}, {d_o, "d_o"}}, delta); !l.ok()) return l;
  if (attention_variant(s) == AttentionVariant::plain) {
    const Pattern a = pattern_of(s);
    return launch_plain<DeltaPlain>(s.type, {a.rows, a.num_heads, a.head_size, a.q_begin, a.q_end, o, d_o, delta},
                                    s.rows * s.num_heads * (s.q_end - s.q_begin), stream);
  }
  const bool wide = s.head_size == 128;
  if (s.type == ElementType::bf16)
    return wide ? launch_delta<device::bf16, 128>(s, o, d_o, delta, stream) : launch_delta<device::bf16, 64>(s, o, d_o, delta, stream);
  return wide ? launch_delta<device::fp16, 128>(s, o, d_o, delta, stream) : launch_delta<device::fp16, 64>(s, o, d_o, delta, stream);
}

Launch s2_attention_backward_kv(const S2Shape& s, const S2BackwardKv& b, Stream stream) {
  if (const Launch l = check_call(s, {{b.q, "q"}, {b.k, "k"}, {b.v, "v"}, {b.d_o, "d_o"}}, b.lse, b.delta); !l.ok()) return l;
  if (!b.carry_out.exists())
    for (const Launch& l : {check_view(s, b.d_k, "d_k"), check_view(s, b.d_v, "d_v")})
      if (!l.ok()) return l;
  BackwardParams p = backward_params(s);
  p.q = b.q, p.k = b.k, p.v = b.v, p.d_o = b.d_o, p.d_k = b.d_k, p.d_v = b.d_v;
  p.lse = b.lse, p.delta = b.delta, p.carry_in = b.carry_in, p.carry_out = b.carry_out;
  if (attention_variant(s) == AttentionVariant::plain)
    return launch_plain<BackwardKvPlain>(s.type, p, s.rows * s.num_kv_heads * (s.k_end - s.k_begin), stream);
  return s.type == ElementType::bf16 ? Sm80<device::bf16>::backward_kv(p, aligned(s), stream)
                                     : Sm80<device::fp16>::backward_kv(p, aligned(s), stream);
}

Launch s2_attention_backward_q(const S2Shape& s, const S2BackwardQ& b, Stream stream) {
  if (const Launch l = check_call(s, {{b.q, "q"}, {b.k, "k"}, {b.v, "v"}, {b.d_o, "d_o"}, {b.d_q, "d_q"}}, b.lse, b.delta); !l.ok())
    return l;
  BackwardParams p = backward_params(s);
  p.q = b.q, p.k = b.k, p.v = b.v, p.d_o = b.d_o, p.d_q = b.d_q, p.lse = b.lse, p.delta = b.delta;
  if (attention_variant(s) == AttentionVariant::plain)
    return launch_plain<BackwardQPlain>(s.type, p, s.rows * s.num_heads * (s.q_end - s.q_begin), stream);
  return s.type == ElementType::bf16 ? Sm80<device::bf16>::backward_q(p, aligned(s), stream)
                                     : Sm80<device::fp16>::backward_q(p, aligned(s), stream);
}

}  // namespace longlora::kernels
