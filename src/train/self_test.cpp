#include "longlora/train/self_test.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "longlora/core/clock.h"
#include "longlora/core/philox.h"
#include "longlora/ops/attention.h"

namespace longlora {
namespace {

constexpr int64_t kTokens = 37, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kGroup = 8;

at::Tensor random(std::vector<int64_t> shape, uint16_t stream) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  float* values = tensor.mutable_data_ptr<float>();
  const PhiloxStream numbers{.seed = 1, .purpose = Purpose::initialise, .layer = stream};
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = 2 * uniform_from(numbers.words(static_cast<uint32_t>(i))[0]) - 1;
  return tensor;
}

/// First visible key by counting boundaries, not by the formula the product uses.
int64_t first_visible(int64_t token, bool shifted) {
  int64_t begin = 0;
  for (int64_t at = 0; at <= token; ++at) {
    if (at == 0 || (shifted ? at + kGroup / 2 : at) % kGroup == 0) begin = at;
  }
  return begin;
}

double expected(const float* q, const float* k, const float* v, int64_t token, int64_t head, int64_t d) {
  const int64_t kv = head / (kHeads / kKvHeads), begin = first_visible(token, head >= kHeads / 2);
  std::vector<double> scores;
  for (int64_t u = begin; u <= token; ++u) {
    double dot = 0;
    for (int64_t i = 0; i < kHeadDim; ++i) {
      dot += static_cast<double>(q[(token * kHeads + head) * kHeadDim + i]) * k[(u * kKvHeads + kv) * kHeadDim + i];
    }
    scores.push_back(dot / std::sqrt(static_cast<double>(kHeadDim)));
  }
  const double top = *std::max_element(scores.begin(), scores.end());
  double sum = 0, value = 0;
  for (int64_t u = begin; u <= token; ++u) {
    const double weight = std::exp(scores[static_cast<size_t>(u - begin)] - top);
    sum += weight;
    value += weight * v[(u * kKvHeads + kv) * kHeadDim + d];
  }
  return value / sum;
}

}  // namespace

SelfTest attention_self_test() {
  const double started = monotonic_seconds();
  const at::Tensor q = random({1, kTokens, kHeads, kHeadDim}, 1), k = random({1, kTokens, kKvHeads, kHeadDim}, 2),
                   v = random({1, kTokens, kKvHeads, kHeadDim}, 3);
  at::Tensor o = at::empty_like(q), lse = at::empty({1, kHeads, kTokens}, q.options());
  s2_attention_forward({.kind = AttentionKind::s2, .tokens = kTokens, .group = kGroup, .num_plain = kHeads / 2}, q, k, v, o, lse);
  SelfTest result{.tolerance = 16 * 0x1p-24 * kHeadDim};
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t d = 0; d < kHeadDim; ++d) {
        const double want = expected(q.const_data_ptr<float>(), k.const_data_ptr<float>(), v.const_data_ptr<float>(), t, h, d);
        const double got = o.const_data_ptr<float>()[(t * kHeads + h) * kHeadDim + d];
        result.largest_error = std::max(result.largest_error, std::abs(got - want));
      }
    }
  }
  result.passed = result.largest_error <= result.tolerance;
  result.seconds = monotonic_seconds() - started;
  return result;
}

}  // namespace longlora
