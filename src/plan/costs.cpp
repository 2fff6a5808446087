#include "plan/costs.h"

#include <algorithm>

namespace longlora::plan {
namespace {

// Attention runs at about two thirds of the rate of plain products (measured on two AVX2 cores), so its FLOPs weigh more.
constexpr double kAttentionWeight = 1.5;
constexpr double kStreamedShare = 0.02;   // of a layer's time: more and smaller calls
constexpr double kOffloadedShare = 0.01;  // of a layer's time, hidden or not: copies take bandwidth from it
// Of a GPU beside its host, until rates are measured: what decides whether a copy is hidden.
constexpr double kProductFlopsPerSecond = 5e14, kLinkBytesPerSecond = 25e9;

double recompute_cost(const Shapes& s, AttentionKind kind, KeepPolicy keep) {
  const double attention = s.attention_flops_per_token(kind) / static_cast<double>(s.layers);
  return s.recompute_flops_per_token(kind, keep) + (keep == KeepPolicy::checkpoint ? (kAttentionWeight - 1) * attention : 0);
}

/// Of a copy out beside the layer's forward pass, and one back beside a backward pass of at least twice its time.
double exposed_cost(const LayerShape& s, double forward) {
  if (!s.on_device) return 0;
  const double copy = static_cast<double>(s.hidden * s.element_bytes) / kLinkBytesPerSecond * kProductFlopsPerSecond;
  return std::max(0.0, copy - forward) + std::max(0.0, copy - 2 * forward);
}

}  // namespace

LayerCosts layer_costs(const Shapes& s, const PassShape& pass) {
  const double layers = static_cast<double>(s.layers), attention = s.attention_flops_per_token(pass.kind) / layers;
  const double products = static_cast<double>(s.layer_matmul_parameters()) / layers;
  const double forward = 2 * products + kAttentionWeight * attention;
  const double whole = (s.full_tuning ? 6 : 4) * products + 3.5 * kAttentionWeight * attention;
  LayerCosts costs;
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all})
    costs.keep[static_cast<size_t>(keep)] = recompute_cost(s, pass.kind, keep);
  costs.streamed = kStreamedShare * whole;
  costs.offloaded = kOffloadedShare * whole + exposed_cost(pass.layer, forward);
  return costs;
}

}  // namespace longlora::plan
