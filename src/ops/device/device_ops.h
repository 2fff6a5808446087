#pragma once
// The kernel side of the operations in include/longlora/ops, for tensors that are not on the CPU; same contracts. Compiled with
// LONGLORA_KERNELS only.
#include "longlora/ops/attention.h"
#include "longlora/ops/cross_entropy.h"
#include "longlora/ops/embedding.h"
#include "longlora/ops/host_list.h"
#include "longlora/ops/linear.h"
#include "longlora/ops/optimizer.h"
#include "longlora/ops/rms_norm.h"
#include "longlora/ops/rope.h"
#include "longlora/ops/rows.h"
#include "longlora/ops/state_lanes.h"

namespace longlora::device {

void s2_attention_forward(const AttentionLayout&, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                          at::Tensor& o_BTHD, at::Tensor& lse_BHT);
void s2_attention_backward(const AttentionLayout&, const at::Tensor& q_BTHD, const at::Tensor& k_BTKD, const at::Tensor& v_BTKD,
                           const at::Tensor& o_BTHD, const at::Tensor& lse_BHT, const at::Tensor& d_o_BTHD, at::Tensor& d_q_BTHD,
                           at::Tensor& d_k_BTKD, at::Tensor& d_v_BTKD, at::Tensor& workspace);
void s2_attention_delta(const AttentionLayout&, const at::Tensor& o_BTHD, const at::Tensor& d_o_BTHD, at::Tensor& delta_BHT);
/// Into `sums` where it is defined, else into d_k and d_v.
void s2_attention_backward_keys(const AttentionLayout&, const AttentionWindow&, const AttentionCarry& start, const at::Tensor& d_k_BTKD,
                                const at::Tensor& d_v_BTKD, const AttentionCarry& sums);
void s2_attention_backward_queries(const AttentionLayout&, const AttentionWindow&, at::Tensor& d_q_BTHD);
std::string attention_kernel(at::ScalarType, int64_t head_size);

void rms_norm_forward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, at::Tensor& y_NC);
void rms_norm_backward(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps, const at::Tensor& d_y_NC, at::Tensor& d_x_NC,
                       at::Tensor& d_weight_C, Accumulate);

enum class Rotation { forward, backward };
void rotate(const RopeTable&, const IntList& positions, int64_t first_row, const at::Tensor& x_NHD, at::Tensor& y_NHD, Rotation);

void swiglu_forward(const at::Tensor& gate_up_NG, at::Tensor& m_NF);
void swiglu_backward(at::Tensor& gate_up_NG, const at::Tensor& d_m_NF);

void apply_dropout(const LoraDropout&, uint8_t site, int64_t first_row, const at::Tensor& x_NI, at::Tensor& out_NI, Accumulate);

void embedding_forward(const at::Tensor& weight_VC, const IntList& ids, at::Tensor& x_NC);
void embedding_backward(const IntList& ids, const at::Tensor& d_x_NC, at::Tensor& d_weight_VC);

void cross_entropy_forward(const at::Tensor& logits_NV, const IntList& labels, at::Tensor& nll_N);
at::Tensor cross_entropy_forward_backward(at::Tensor& logits_NV, const IntList& labels, float scale, at::ScalarType d_type,
                                          at::Tensor& nll_N);
at::Tensor sum_of(const at::Tensor& nll_N);

void gather_rows(const at::Tensor& from_MC, const RowList& rows, at::Tensor& to_NC);
void scatter_rows(const at::Tensor& from_NC, const RowList& rows, at::Tensor& to_MC);

std::vector<StateLanes> state_lanes(const std::vector<at::Tensor>&, const std::vector<uint64_t>& first_words);

void square_sums(const at::Tensor& gradient, const at::Tensor& blocks);
void finish_norm(const at::Tensor& blocks, const at::Tensor& norm);
void control_update(const at::Tensor& norm, double max_norm, const at::Tensor& control);
void adamw_update(const AdamwNumbers&, const at::Tensor& master, const at::Tensor& gradient, const at::Tensor& m, const at::Tensor& v,
                  const at::Tensor& weight, const at::Tensor& control);

}  // namespace longlora::device
