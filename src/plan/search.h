#pragma once
// The search for what each layer keeps: of all mixes that fit, the one that costs the least time, ties to fewer bytes.
//
// A mix: the last layers save everything, those before them save attention, the rest checkpoint (what is kept last is freed first); the
// inputs of the first layers wait on the host (theirs have the longest time to come back); every layer is whole where that fits and
// streamed where it does not.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longlora/plan/layer_memory.h"

namespace longlora::plan {

/// Time of one layer's choices over that of a layer which keeps everything, whole, on the device; in any unit. A table, not a sum: how much
/// of an offload is exposed depends on what the layer computes meanwhile.
struct LayerCosts {
  std::array<std::array<std::array<double, 2>, 2>, 3> table{};  // [KeepPolicy][streamed][offloaded]
  double& at(const LayerPolicy& p) { return table[static_cast<size_t>(p.keep)][p.streamed ? 1 : 0][p.offloaded ? 1 : 0]; }
  double at(const LayerPolicy& p) const { return table[static_cast<size_t>(p.keep)][p.streamed ? 1 : 0][p.offloaded ? 1 : 0]; }
};

enum class Streaming { never, where_needed, always };
enum class Offload { never, surplus, all };
/// What the configuration leaves open.
struct Freedom {
  std::optional<KeepPolicy> keep;  // the same in every layer; none: any mix
  Streaming streaming = Streaming::never;
  Offload offload = Offload::never;
  bool operator==(const Freedom&) const = default;
};

struct Limits {
  int64_t arena_bytes = 0;  // of the device, or of the host on a CPU
  int64_t host_bytes = 0;   // for offloaded inputs
};

struct Found {
  std::vector<LayerPolicy> policies;
  double cost = 0;
  ActivationPeak peak;
};

class Search {
 public:
  Search(const LayerShape&, const LossShape&, int64_t layers, const LayerCosts&, Freedom);

  /// None when nothing fits. O(L^3 log L) additions, as a rule far fewer.
  std::optional<Found> cheapest(const Limits&) const;
  /// The smallest arena that any mix needs, with as many inputs on the host as may be there.
  int64_t least_arena_bytes(int64_t host_bytes) const;
  /// Of the mixes without offload that cost less than `found`, the one that needs the fewest bytes.
  std::optional<Found> next_better(const Found& found) const;

 private:
  struct Mix {
    int64_t all = 0, attention = 0, offloaded = 0;
    Streaming streaming = Streaming::never;
    bool offloaded_streamed = false;
  };
  /// Bytes of the two kinds of moments of a layer, without what is kept before it.
  struct LayerBytes {
    int64_t kept = 0, x = 0;                       // kept: without x
    std::array<int64_t, 2> forward{}, backward{};  // workspace; [streamed]
  };
  struct Tried {
    enum class Result : uint8_t { fits, offload_more, offload_fewer } result = Result::fits;
    double cost = 0;
    int64_t bytes = 0, num_streamed = 0;
    bool fits() const { return result == Result::fits; }
  };
  /// The cheapest so far.
  struct Best {
    std::optional<Mix> mix;
    Tried tried;
  };

  KeepPolicy keep_of(const Mix&, int64_t layer) const;
  /// Cost and bytes, or what would help; incomplete where it does not fit. Writes the layers' policies when asked to.
  Tried attempt(const Mix&, int64_t arena_bytes, std::vector<LayerPolicy>* policies = nullptr) const;
  void consider(const Mix&, const Tried&, Best&) const;
  void try_offloads(Mix, int64_t most, int64_t arena_bytes, Best&) const;
  double least_cost(const Mix&) const;
  Found found(const Mix&, int64_t arena_bytes) const;
  int64_t most_offloaded(int64_t host_bytes) const;
  int64_t fewest_offloaded() const { return freedom_.offload == Offload::all ? layers_ : 0; }
  std::vector<Streaming> uniform_choices() const;  // all layers whole, all streamed: what is allowed of them

  LayerShape shape_;
  LossShape loss_;
  int64_t layers_;
  LayerCosts costs_;
  Freedom freedom_;
  std::array<LayerBytes, 3> bytes_;
  std::array<int64_t, 2> staging_bytes_{};  // of offloaded inputs; [streamed]
  int64_t hidden_bytes_ = 0, loss_bytes_ = 0;
};

/// "layers 0..3 checkpoint, 4..5 save_all"
std::string summary_of(const std::vector<LayerPolicy>&);

}  // namespace longlora::plan
