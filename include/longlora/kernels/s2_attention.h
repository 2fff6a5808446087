#pragma once
// Shifted sparse attention on a GPU, forward and backward (LongLoRA, arXiv:2309.12307, section 3.2; docs/attention.md). Plain, shifted,
// full causal and the paper's leaking wrap-around form are one operator with different segment boundaries (s2_layout.h).
//
//   o[t,h] = sum_{u=L(t,h)}^{t} softmax_u(q[t,h].k[u,kv(h)] / sqrt(D)) v[u,kv(h)],   lse[h,t] = ln sum_u exp(q[t,h].k[u,kv(h)] / sqrt(D))
//
// Legend: B rows, T tokens of a row, H query heads, K key/value heads, D head size.
// Types    bf16, fp16 on tensor cores with D 64 or 128; fp32 (and any other D up to 256) by the plain kernel
// Views    any strides in elements, last stride 1; the tensor-core kernels need 16-byte aligned bases and strides that are multiples of 8
// Windows  q, o, lse and their gradients hold positions [q_begin, q_end), k, v and theirs [k_begin, k_end); pointers are to the window's
// first Bits     one block owns every output; no float atomics; sums have a fixed order, also over windows cut at tile multiples (kTile)
// Cost     forward 4 D, backward 14 D FLOP a visible pair; no memory but lse and delta
// Errors   a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

/// [B, T, heads, D]
struct HeadView {
  void* data = nullptr;
  int64_t row = 0, token = 0, head = 0;  // strides in elements
};
/// fp32 [B, H, T], last stride 1
struct StatisticsView {
  float* data = nullptr;
  int64_t row = 0, head = 0;
};

/// Tile edges of all tensor-core kernels divide this: windows cut at its multiples keep every bit, and g/2 that is a multiple of it needs
/// no test at segment edges.
inline constexpr int64_t kAttentionTile = 128;
/// The same of the CPU's backward pass: tokens of queries or keys that are scheduled as one.
constexpr int64_t host_attention_block(int64_t head_size) {
  return head_size <= 64 ? 512 : head_size <= 128 ? 256 : head_size <= 256 ? 128 : head_size <= 512 ? 64 : head_size <= 1024 ? 32 : 16;
}

enum class AttentionVariant { automatic, plain, sm80 };  // sm80: mma.sync and cp.async, on compute capability 8.0 and later

struct S2Shape {
  ElementType type = ElementType::bf16;
  int64_t rows = 0, tokens = 0;
  int64_t group = 0;                                       // even; >= 2 tokens is full causal attention
  int64_t num_heads = 0, num_kv_heads = 0, num_plain = 0;  // query heads [0, num_plain) are plain, the others shifted by group / 2
  int64_t head_size = 0;
  bool wraps = false;  // shifted heads as the paper's Algorithm 1: T % g == 0, no documents, whole rows
  int64_t q_begin = 0, q_end = 0, k_begin = 0, k_end = 0;
  /// First position of the document of every position and the end of it, int32 [B, T]; both null: one document a row.
  const int32_t *document_begin = nullptr, *document_end = nullptr;
  AttentionVariant variant = AttentionVariant::automatic;
};

/// The kernel that `automatic` takes: by type and head size, and by the compute capability once there is more than one path.
AttentionVariant attention_variant(const S2Shape&);
const char* name_of(AttentionVariant);

/// o may be q.
Launch s2_attention_forward(const S2Shape&, HeadView q, HeadView k, HeadView v, HeadView o, StatisticsView lse, Stream);

/// delta[h,t] = sum_d d_o[t,h,d] o[t,h,d], before the two kernels below.
Launch s2_attention_delta(const S2Shape&, HeadView o, HeadView d_o, StatisticsView delta, Stream);

/// fp32 [B, T, K, D] running sums of a window of keys: dK before its factor 1/sqrt(D), and dV.
struct Carry {
  HeadView d_k, d_v;
  bool exists() const { return d_k.data != nullptr; }
};

/// dK and dV of the keys in the window from the queries in the window, query tiles in descending order, inside a tile the query heads of
/// the KV head ascending. `carry_in` starts the sums (windows of later queries come first); with `carry_out` the sums go there and d_k, d_v
/// are not written.
struct S2BackwardKv {
  HeadView q, k, v, d_o, d_k, d_v;
  StatisticsView lse, delta;
  Carry carry_in, carry_out;
};
Launch s2_attention_backward_kv(const S2Shape&, const S2BackwardKv&, Stream);

/// dQ; d_q may be q (then after backward_kv).
struct S2BackwardQ {
  HeadView q, k, v, d_o, d_q;
  StatisticsView lse, delta;
};
Launch s2_attention_backward_q(const S2Shape&, const S2BackwardQ&, Stream);

}  // namespace longlora::kernels
