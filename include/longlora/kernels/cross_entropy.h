#pragma once
// Cross-entropy of rows of logits on a GPU, gradient in place over them. CPU: longlora/ops/cross_entropy.h.
//
//   nll[n] = ln sum_v exp(logits[n,v]) - logits[n, labels[n]],   d_logits[n,v] = scale (softmax(logits[n])[v] - [v == labels[n]])
//
// The caller brings the logits in chunks of rows; [tokens, vocabulary] never exists as a whole.
// logits  [rows, vocabulary], row stride >= vocabulary, any alignment of the element; 16-byte accesses when base and stride allow it
// labels  int32 [rows], in [0, vocabulary) (the caller has checked that), or negative: no target, nll 0, gradient 0
// Maths   fp32: one pass for maximum and sum together, a second one for the gradient
// Bits    sums have an order that depends on the vocabulary only
// Cost    forward one read of the logits; backward two reads, the second from the L2 cache, and one write
// Errors  a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

struct CrossEntropy {
  int64_t rows = 0, vocabulary = 0;
  ElementType logits_type = ElementType::fp32;
};

/// nll fp32 [rows]
Launch cross_entropy(const CrossEntropy&, ConstRows logits, const int32_t* labels, float* nll, Stream);

/// The same, and the gradient in place, of the logits' type; or bf16|fp16 over fp32 logits: then element i of a row lies at byte 2i of the
/// row's own memory, and a matrix product takes it with the leading dimension `in_place_stride`. The rest of the row is left as it is.
Launch cross_entropy_backward(const CrossEntropy&, Rows logits, const int32_t* labels, float scale, float* nll, ElementType d_type, Stream);
/// Row stride of the gradient in its own elements.
constexpr int64_t in_place_stride(ElementType logits_type, int64_t logits_stride, ElementType d_type) {
  return logits_stride * element_bytes(logits_type) / element_bytes(d_type);
}

/// *sum += nll[0] + ... + nll[rows-1], in fp64 and in a fixed order.
Launch add_nll(const float* nll, int64_t rows, double* sum, Stream);

}  // namespace longlora::kernels
