#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "longlora/core/error.h"
#include "longlora/ops/optimizer.h"
#include "optim/gate.h"

namespace longlora {
namespace {

constexpr int64_t kBlock = kNormBlock;

/// Four interleaved fp64 sums, added in fixed order.
double square_sum(const float* g, int64_t count) {
  double lane[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int64_t k = 0; k < 4; ++k) lane[k] += static_cast<double>(g[i + k]) * static_cast<double>(g[i + k]);
  for (int64_t k = 0; i < count; ++i, ++k) lane[k] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

}  // namespace

void block_square_sums(const at::Tensor& gradient, at::Tensor blocks) {
  LONGLORA_INVARIANT(gradient.is_contiguous() && blocks.numel() == norm_blocks(gradient.numel()));
  if (!gradient.is_cpu()) return square_sums(gradient, blocks);
  const float* g = gradient.const_data_ptr<float>();
  double* sums = blocks.mutable_data_ptr<double>();
  const int64_t count = gradient.numel();
  at::parallel_for(0, blocks.numel(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sums[b] = square_sum(g + b * kBlock, std::min(kBlock, count - b * kBlock));
  });
}

double gradient_norm(const std::vector<Parameter*>& parameters) {
  if (parameters.empty()) return 0;
  if (!parameters.front()->grad.is_cpu()) return device_norm(parameters);
  int64_t num_blocks = 0;
  for (const Parameter* p : parameters) num_blocks += norm_blocks(p->grad.numel());  // every parameter starts a new block
  std::vector<double> blocks(static_cast<size_t>(num_blocks));
  const at::Tensor sums = at::from_blob(blocks.data(), {num_blocks}, at::TensorOptions().dtype(at::kDouble));
  int64_t first = 0;
  for (const Parameter* p : parameters) {
    const int64_t count = norm_blocks(p->grad.numel());
    block_square_sums(p->grad, sums.narrow(0, first, count));
    first += count;
  }
  return std::sqrt(tree_sum(std::move(blocks)));
}

double clip_factor(double norm, double clip_norm) { return clip_norm == 0 || norm <= clip_norm ? 1.0 : clip_norm / norm; }

}  // namespace longlora
