#pragma once
// Causal attention inside segments, forward and backward (docs/attention.md). Full causal attention, plain and shifted segments and
// the paper's leaking `s2_wrap` are one operator with different boundary sets.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "longlora/config/train_config.h"

namespace longlora {

struct AttentionLayout {
  AttentionKind kind = AttentionKind::full;
  int64_t tokens = 0;     // T of the row
  int64_t group = 0;      // g, even; ignored by full
  int64_t num_plain = 0;  // query heads [0, num_plain) are plain, the others shifted
  /// Per row: starts of documents, first 0, strictly increasing, < T. Empty = one document a row. Refused with s2_wrap.
  std::vector<std::vector<int64_t>> document_starts;
  // Windows of absolute positions (halo streaming): q holds [q_begin, q_begin + q.size(1)), k and v hold [k_begin, k_begin + k.size(1)).
  int64_t q_begin = 0, k_begin = 0;
  /// On a device, where `document_starts` say more than one document a row: their `document_bounds` there; undefined: uploaded by every
  /// call.
  at::Tensor document_bounds;
};

/// First position of the document of every position and the end of it, [2, B, T]: what kernels read in place of lists.
std::vector<int32_t> document_bounds(int64_t tokens, const std::vector<std::vector<int64_t>>& document_starts);

/// Throws ErrorKind::config for an odd group (naming both even neighbours), s2_wrap with T % g != 0 or documents; ErrorKind::data for
/// bad document lists (row and value named).
void check_layout(const AttentionLayout&, int64_t num_heads, int64_t num_kv_heads);

///   o[t,h] = sum_{u=L(t,h)}^{t} softmax_u(q[t,h].k[u,kv(h)] / sqrt(D)) v[u,kv(h)],  lse natural log
/// q_BTHD, k_BTKD, v_BTKD   fp32|bf16, any strides with last stride 1; H a multiple of K
/// o_BTHD  dtype of q, may alias q;  lse_BHT fp32
/// bits    do not depend on the thread count, the batch split or window cuts at tile multiples
/// cost    2 GEMMs over the allowed pairs (tiles); scratch <= 1 MiB a thread, independent of T, g and H
void s2_attention_forward(const AttentionLayout&, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                          at::Tensor& o_BTHD, at::Tensor& lse_BHT);

/// Gradients of the above. d_q may alias q (dK/dV run first; fp32 then takes 7 products over the pairs in place of 5, for the same bits;
/// bf16 always takes 7). d_k, d_v sum the H/K query heads of a KV head in fp32, rounded once.
/// Every gradient element is written (nothing needs zeroing). delta is computed into `workspace` (fp32, delta_elements()).
void s2_attention_backward(const AttentionLayout&, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                           const at::Tensor& o_BTHD, const at::Tensor& lse_BHT, const at::Tensor& d_o_BTHD, at::Tensor& d_q_BTHD,
                           at::Tensor& d_k_BTKD, at::Tensor& d_v_BTKD, at::Tensor& workspace);
int64_t attention_workspace_elements(int64_t rows, int64_t tokens, int64_t num_heads);  // delta: B * H * T floats

// The backward pass in parts, for rows that lie in windows (one sequence on several ranks): delta, keys, queries, in this order. Over
// whole rows they are the pass above, with its bits; windows cut at tile multiples keep them.

/// d_o[t,h] . o[t,h], fp32 [B, H, T], last stride 1, for queries of the window that starts at q_begin.
void s2_attention_delta(const AttentionLayout&, const at::Tensor& o_BTHD, const at::Tensor& d_o_BTHD, at::Tensor& delta_BHT);

/// What keys and queries read: queries from q_begin on, keys from k_begin on.
struct AttentionWindow {
  at::Tensor q_BTHD, k_BTKD, v_BTKD, d_o_BTHD, lse_BHT, delta_BHT;
};
/// fp32 [B, T, K, D] running sums over queries of a window of keys: dK before its factor 1/sqrt(D), and dV. Undefined: 0.
struct AttentionCarry {
  at::Tensor d_k_BTKD, d_v_BTKD;
};

/// Gradients of the window's keys from the window's queries; queries that see other keys too are fine. `start`: sums over later queries
/// come first.
void s2_attention_backward_keys(const AttentionLayout&, const AttentionWindow&, const AttentionCarry& start, at::Tensor& d_k_BTKD,
                                at::Tensor& d_v_BTKD);
/// The same sums before factor and rounding, for a later call, or a rank, that goes on with them.
void s2_attention_key_sums(const AttentionLayout&, const AttentionWindow&, const AttentionCarry& start, AttentionCarry& sums);
/// Gradients of the window's queries; the window of keys holds everything they see. d_q may be q.
void s2_attention_backward_queries(const AttentionLayout&, const AttentionWindow&, at::Tensor& d_q_BTHD);

/// Name of the attention code that tensors of this kind meet: "cpu", or the kernel. Another one means other last bits.
std::string attention_variant(const at::Device&, at::ScalarType, int64_t head_size);

}  // namespace longlora
