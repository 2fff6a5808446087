#pragma once
// Linear maps with optional LoRA (Hu et al. 2021), several of them side by side as one product: q|k|v, o, gate|up, down.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "longlora/ops/buffer.h"

namespace longlora {

/// Output columns [begin, end) of a Linear with an adapter of their own: B [end - begin, r].
struct LoraPart {
  int64_t begin = 0, end = 0;
  at::Tensor b_OR, d_b_OR;  // compute dtype; fp32
  uint8_t site = 0;         // Philox site of its dropout: the LoraTarget's number
};

/// y = x W^T + s drop(x) A^T B^T. Tensors are views of parameters; a gradient that is undefined belongs to a frozen parameter.
struct Linear {
  at::Tensor d_weight_OI;   // fp32; W itself comes from wherever weights live (resident, gathered, streamed)
  at::Tensor a_RI, d_a_RI;  // the parts' A matrices stacked: [parts * r, in]; undefined without LoRA
  std::vector<LoraPart> parts;
  double scale = 0;  // s

  bool has_lora() const { return !parts.empty(); }
  int64_t rank() const { return a_RI.size(0) / static_cast<int64_t>(parts.size()); }
  /// Does backward read the input? Frozen maps without adapters do not.
  bool backward_needs_input() const { return has_lora() || d_weight_OI.defined(); }
};

/// Dropout of LoRA inputs by counters: element e of global row g is dropped iff uniform(Philox(seed, site, layer, step, g; e)) < p,
/// others are divided by 1 - p. The mask is recomputed in backward, never saved (docs/determinism).
struct LoraDropout {
  double drop_probability = 0;  // 0: off
  uint64_t seed = 0;
  uint16_t layer = 0;
  uint32_t step = 0;
  int64_t tokens = 0;  // T: row n of a tile belongs to global row global_rows[(first_row + n) / T]
  std::vector<uint32_t> global_rows;
  /// Rows may hold only tokens [part_begin, part_begin + part_tokens) of their T; 0: all of them.
  int64_t part_begin = 0, part_tokens = 0;
};
/// out = (or +=) mask * x / (1 - p), for rows first_row .. of one micro-batch
void apply_dropout(const LoraDropout&, uint8_t site, int64_t first_row, const at::Tensor& x_NI, at::Tensor& out_NI, Accumulate);

/// Intermediate results of linear maps, shared by all of them.
struct LinearScratch {
  Buffer low_rank, d_low_rank, dropped, product;
};

/// A Linear ready for use: with `merged`, weight = W + s B A was formed, and x needs no skinny product of its own (fp32 only:
/// in bf16 a small B A would be rounded away).
struct PreparedLinear {
  const Linear* linear = nullptr;
  at::Tensor weight_OI;
  bool merged = false;
};
enum class Merge { no, yes };
/// Merge::yes costs O*I*(r + 1) once instead of rows*(O + I)*r per pass; no effect without LoRA. `storage` holds the merged weight.
PreparedLinear prepare(const Linear&, const at::Tensor& weight_OI, Merge, Buffer& storage);

struct LinearCall {
  LinearScratch& scratch;
  const LoraDropout* dropout = nullptr;  // null or p = 0: off
  int64_t first_row = 0;
};

/// y = (or +=) x W^T + s drop(x) A^T B^T.   x_NI, y_NO  rows contiguous in their last dimension; no copies are made
void linear_forward(const PreparedLinear&, const LinearCall&, const at::Tensor& x_NI, at::Tensor& y_NO, Accumulate = Accumulate::no);

/// d_x = (or +=) d_y W + drop'(s d_y B A); undefined d_x: not wanted.
/// d_W += d_y^T x,  d_A += (s d_y B)^T drop(x),  d_B += s d_y^T (drop(x) A^T), in fp32, one product per call
/// x_NI    may be undefined when !backward_needs_input()
void linear_backward(const PreparedLinear&, const LinearCall&, const at::Tensor& x_NI, const at::Tensor& d_y_NO, at::Tensor& d_x_NI,
                     Accumulate = Accumulate::no);

/// g += scale * left^T right with an fp32 destination. bf16 factors: on the CPU the product is rounded once to bf16 before it is added, on
/// CUDA it stays in fp32.
void accumulate_product(at::Tensor& g_OI, const at::Tensor& left_NO, const at::Tensor& right_NI, double scale, Buffer& product);

/// out = left right, out fp32 while the factors may be bf16 (devices); otherwise of their dtype.
void wide_product(at::Tensor& out, const at::Tensor& left, const at::Tensor& right);

}  // namespace longlora
