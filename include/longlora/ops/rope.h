#pragma once
// Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face, in place, forward and backward.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "longlora/ops/host_list.h"

namespace longlora {

/// cos and sin of fp32(position) * fp32(frequency), each times the attention factor (yarn), fp32 [positions, D/2]. Grows on demand.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(std::vector<float> frequencies, double attention_factor);
  /// Makes positions [0, count) available. Not thread-safe.
  void reserve(int64_t count);
  const float* cosines(int64_t position) const { return values_ + position * 2 * half(); }
  const float* sines(int64_t position) const { return cosines(position) + half(); }
  /// All values on a device, fp32 [positions, D]; uploaded once for every growth.
  at::Tensor on(const at::Device&) const;
  int64_t half() const { return static_cast<int64_t>(frequencies_.size()); }

 private:
  std::vector<float> frequencies_;
  double attention_factor_ = 1;
  at::Tensor table_;  // on the CPU, [positions, D]: D/2 cosines, D/2 sines
  const float* values_ = nullptr;
  mutable at::Tensor uploaded_;
};

///   y[i] = x[i] cos_i - x[i + D/2] sin_i,   y[i + D/2] = x[i + D/2] cos_i + x[i] sin_i       per row and head
/// x_NHD      fp32|bf16, last stride 1, in place
/// positions  one per row, covered by the table (reserve)
void rope_forward(const RopeTable&, const IntList& positions, int64_t first_row, at::Tensor& x_NHD);
/// The transposed rotation (the table's factor included): d_x = R^T d_y. Reads d_y_NHD, writes d_x_NHD; they may be the same.
void rope_backward(const RopeTable&, const IntList& positions, int64_t first_row, const at::Tensor& d_y_NHD, at::Tensor& d_x_NHD);

/// Position of every token of `rows` x `tokens`: restarts at every document start; one document a row when `document_starts` is empty.
std::vector<int32_t> token_positions(int64_t rows, int64_t tokens, const std::vector<std::vector<int64_t>>& document_starts);

}  // namespace longlora
