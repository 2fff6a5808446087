#pragma once
// Cross-entropy of rows of logits. The caller brings logits in chunks of rows; [tokens, vocabulary] never exists as a whole.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "longlora/ops/host_list.h"

namespace longlora {

/// Sum of negative log-likelihoods and number of targets: never a mean.
struct LossSum {
  double nll_sum = 0;
  int64_t targets = 0;
  at::Tensor pending;  // of a device: the sum, fp64 [1], not read yet; nll_sum is 0 until `settle`
};
/// Nothing is read from a device.
LossSum operator+(const LossSum& left, const LossSum& right);
/// Reads a pending sum: waits for the device.
void settle(LossSum&);

/// Label of a position without a target: such rows are left out by the caller.
inline constexpr int32_t kIgnoredLabel = -100;

/// nll[n] = ln sum_v exp(logits[n, v]) - logits[n, labels[n]], fp32. labels in [0, V): ErrorKind::data otherwise. logits unchanged.
void cross_entropy_forward(const at::Tensor& logits_NV, std::span<const int32_t> labels, std::span<float> nll);

/// The same, and logits[n, v] <- scale * (softmax(logits[n])[v] - [v == labels[n]]) in place, in the logits' dtype.
void cross_entropy_forward_backward(at::Tensor& logits_NV, std::span<const int32_t> labels, float scale, std::span<float> nll);

// The same where the logits are: nll_N fp32 on their device.
void cross_entropy_forward(const at::Tensor& logits_NV, const IntList& labels, at::Tensor& nll_N);
/// Returns the gradient, of type `d_type`, in the logits' own memory: on a device it may be bf16 over fp32 logits, then with the rows'
/// stride of the logits.
at::Tensor cross_entropy_forward_backward(at::Tensor& logits_NV, const IntList& labels, float scale, at::ScalarType d_type,
                                          at::Tensor& nll_N);

/// Sum over rows in fp64 and fixed order (CPU: ascending); pending on a device.
LossSum sum_of(const at::Tensor& nll_N);

}  // namespace longlora
