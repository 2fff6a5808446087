#pragma once
// AdamW with fp32 masters, learning-rate schedules, gradient norm and clipping.
#include <cstdint>
#include <vector>

#include "longlora/config/train_config.h"
#include "longlora/model/parameter.h"
#include "longlora/ops/cross_entropy.h"

namespace longlora {

/// rate(step) of the schedule, step from 0; a pure function. rate(0) > 0 for any warm-up; rate(warmup) == peak; decaying kinds reach
/// floor*peak at the last step and stay there.
double learning_rate_at(const TrainConfig::Schedule&, double peak, int64_t step, int64_t total_steps);

/// fp64 sum of squares per block of 16,384 elements in fixed order, block sums added by the fixed binary tree (docs/determinism).
/// Independent of the thread count.
double gradient_norm(const std::vector<Parameter*>&);
/// Its parts, for gradients that several ranks hold: blocks fp64 [norm_blocks(numel)] of a contiguous fp32 gradient, on its device; and the
/// tree over all of them.
void block_square_sums(const at::Tensor& gradient, at::Tensor blocks);

/// The fixed binary tree: node(l, i) = node(l-1, 2i) + node(l-1, 2i+1), or node(l-1, 2i) where there is no right sibling. T{} for none.
template <class T>
T tree_sum(std::vector<T> nodes) {
  if (nodes.empty()) return {};
  for (size_t count = nodes.size(); count > 1; count = (count + 1) / 2)
    for (size_t i = 0; i < (count + 1) / 2; ++i) nodes[i] = 2 * i + 1 < count ? nodes[2 * i] + nodes[2 * i + 1] : nodes[2 * i];
  return nodes.front();
}

/// min(1, clip / norm); 1 when clip == 0 (off).
double clip_factor(double norm, double clip_norm);

/// What decides about an update: the loss, the norm of all gradients, and what follows from them. On a device it stays there until `read`;
/// the update is enqueued before that and looks at `control` itself.
struct UpdateGate {
  double nll_sum = 0, norm = 0, clip = 1;
  bool finite = true;
  at::Tensor numbers;  // of a device: fp64 {nll sum, norm}
  at::Tensor control;  // of a device: what adamw_update reads
};
/// Loss and norm of a step. Nothing is read from a device.
UpdateGate update_gate(const LossSum&, const std::vector<Parameter*>&, double clip_norm);
/// The same decision from numbers that the host knows already.
UpdateGate gate_of(double nll_sum, double norm, const std::vector<Parameter*>&, double clip_norm);
/// Fills the host's numbers: the one wait of a step on a device.
void read(UpdateGate&);

class AdamW {
 public:
  /// Allocates moments (zero) where undefined, of the master's size. Sharded state: this rank's elements are updated, of weights too.
  AdamW(std::vector<Parameter*>, const TrainConfig::Optimizer&);
  /// One update (Loshchilov & Hutter 2019, decoupled decay; decay is not applied to norms). `step` counts applied steps from 1.
  /// The gradient is multiplied by `clip` on the fly; compute copies are refreshed. rate: peak-relative rate times per-role peak.
  void step(int64_t applied_step, double rate_factor, double clip);
  /// The same with the gate's clip factor; nothing is written unless loss and norm are finite.
  void step(int64_t applied_step, double rate_factor, const UpdateGate&);

 private:
  std::vector<Parameter*> parameters_;
  TrainConfig::Optimizer options_;
};

}  // namespace longlora
