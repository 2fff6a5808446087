#pragma once
// Where a layer's projection weights come from. The model never sees whether they are resident, gathered from other ranks or streamed
// from the host: it acquires a layer, computes, and releases it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace longlora {

/// Projections that read the same input lie side by side and are one product. Compute dtype.
struct LayerWeights {
  at::Tensor qkv_EC;      // rows q | k | v: [(H + 2K) D, C]
  at::Tensor o_CE;        // [C, H D]
  at::Tensor gate_up_GC;  // rows gate | up: [2F, C]
  at::Tensor down_CF;     // [C, F]
};

class LayerStore {
 public:
  virtual ~LayerStore() = default;
  /// Waits until the layer's weights can be read; they stay valid until `release`. At most two layers are acquired at a time.
  virtual LayerWeights acquire(int64_t layer) = 0;
  virtual void release(int64_t layer) = 0;
  /// The layer will be acquired next (0 .. L-1 forward, L-1 .. 0 backward); returns at once. Called after the present layer is acquired
  /// and before its computation. Out-of-range layers are ignored.
  virtual void prefetch(int64_t layer) = 0;
  /// Element by element over the ranks that hold parts of the layers, exact; between passes. Nothing to add where one holds all.
  virtual void sum(std::span<int64_t>) {}
};

/// All weights in memory: acquire costs nothing.
class ResidentStore final : public LayerStore {
 public:
  explicit ResidentStore(std::vector<LayerWeights> layers) : layers_(std::move(layers)) {}
  LayerWeights acquire(int64_t layer) override { return layers_[static_cast<size_t>(layer)]; }
  void release(int64_t) override {}
  void prefetch(int64_t) override {}

 private:
  std::vector<LayerWeights> layers_;
};

}  // namespace longlora
