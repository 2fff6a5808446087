#pragma once
// Cross-entropy of rows of logits. The caller brings logits in chunks of rows; [tokens, vocabulary] never exists as a whole.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace longlora {

/// Sum of negative log-likelihoods and number of targets: never a mean.
struct LossSum {
  double nll_sum = 0;
  int64_t targets = 0;
};

/// Label of a position without a target: such rows are left out by the caller.
inline constexpr int32_t kIgnoredLabel = -100;

/// nll[n] = ln sum_v exp(logits[n, v]) - logits[n, labels[n]], fp32. labels in [0, V): ErrorKind::data otherwise. logits unchanged.
void cross_entropy_forward(const at::Tensor& logits_NV, std::span<const int32_t> labels, std::span<float> nll);

/// The same, and logits[n, v] <- scale * (softmax(logits[n])[v] - [v == labels[n]]) in place, in the logits' dtype.
void cross_entropy_forward_backward(at::Tensor& logits_NV, std::span<const int32_t> labels, float scale, std::span<float> nll);

}  // namespace longlora
