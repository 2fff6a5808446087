#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

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

/// node(l, i) = node(l-1, 2i) + node(l-1, 2i+1); a node without sibling passes up.
double tree_sum(std::vector<double> nodes) {
  if (nodes.empty()) return 0;
  while (nodes.size() > 1) {
    const size_t parents = (nodes.size() + 1) / 2;
    for (size_t i = 0; i < parents; ++i) nodes[i] = 2 * i + 1 < nodes.size() ? nodes[2 * i] + nodes[2 * i + 1] : nodes[2 * i];
    nodes.resize(parents);
  }
  return nodes[0];
}

}  // namespace

double gradient_norm(const std::vector<Parameter*>& parameters) {
  if (!parameters.empty() && !parameters.front()->grad.is_cpu()) return device_norm(parameters);
  std::vector<double> blocks;  // every parameter starts a new block
  for (const Parameter* p : parameters) {
    const float* g = p->grad.const_data_ptr<float>();
    const int64_t count = p->grad.numel(), num_blocks = (count + kBlock - 1) / kBlock;
    const size_t first = blocks.size();
    blocks.resize(first + static_cast<size_t>(num_blocks));
    at::parallel_for(0, num_blocks, 8, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        blocks[first + static_cast<size_t>(b)] = square_sum(g + b * kBlock, std::min(kBlock, count - b * kBlock));
    });
  }
  return std::sqrt(tree_sum(std::move(blocks)));
}

double clip_factor(double norm, double clip_norm) { return clip_norm == 0 || norm <= clip_norm ? 1.0 : clip_norm / norm; }

}  // namespace longlora
