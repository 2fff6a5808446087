#pragma once
// Predicted time of a step: what has to be computed, read and sent, divided by rates of a machine (docs/memory.md, "Predicted time and
// rates"). Shapes and rates only: no device, no weights, no clock; same inputs, same seconds.
#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/train_config.h"
#include "longlora/plan/layer_memory.h"

namespace longlora {

/// Where the base of MFU and HFU comes from: the data sheet of the card, a product measured on the machine, or a machine that is assumed.
enum class PeakKind : uint8_t { assumed, measured, printed };

/// Of one device. All positive but `peers`.
struct Rates {
  double products = 0;     // FLOP/s of matrix products at the shapes of a layer
  double attention = 0;    // FLOP/s as executed: 4 D a visible pair forward, 14 D backward
  double elementwise = 0;  // bytes/s through memory, read and written
  double link = 0;         // bytes/s between host and device, one way
  double peers = 0;        // bytes/s that a rank receives from other ranks; 0: unknown, and what ranks exchange is not counted
  double peak = 0;         // FLOP/s that MFU and HFU are shares of
  PeakKind peak_kind = PeakKind::assumed;
  DeviceKind device = DeviceKind::automatic;  // cuda or cpu
  std::string source;                         // who says so, for people
};

/// cuda: an H100 SXM, printed peak 989.4 TFLOP/s in bf16, 66.9 in fp32 (without TF32). Otherwise: two AVX2 cores in fp32. All say
/// "assumed".
Rates default_rates(DeviceKind, ComputeType = ComputeType::automatic);
/// What `doctor --rates FILE` wrote, or docs/benchmarks/<device>/machine.json (rates that it lacks are assumed shares of its product rate).
/// At most 16 MiB. Not JSON, neither of the two, a rate that is absent, not finite or not positive: ErrorKind::data.
Rates read_rates(const std::filesystem::path&);
Rates parse_rates(std::string_view json, std::string_view source);
/// Dense FLOP/s in bf16 with fp32 sums that the maker prints for a GPU of this name; 0 for unknown ones.
double printed_peak(std::string_view device_name);
/// "989 TFLOP/s, the card's", "133 GFLOP/s, measured": what MFU and HFU are shares of.
std::string peak_text(const Rates&);

/// Everything that the time of a step depends on besides policies and rates.
struct StepShape {
  LayerShape layer;  // rows, tokens: of one micro-batch on one rank
  int64_t layers = 0, vocabulary = 0;
  int64_t layer_lora = 0;      // parameters of a layer's adapters
  double attention_flops = 0;  // forward, of a layer and micro-batch: exact pairs, mean over layers
  bool head_trained = false;
  int64_t micro_batches = 1;  // a rank and step
  int64_t ranks = 1;          // in all, those that share rows included
  int64_t step_tokens = 0;    // of all ranks
  int64_t trainable = 0, state_ranks = 1;
  int64_t gather_bytes = 0;  // a rank receives before it computes a layer, forward and once more backward
  int64_t halo_bytes = 0;    // a rank receives in a layer, forward and backward together (dist.sequence_parallel)
};
/// `weight_ranks`: that share the frozen layers (dist.shard_weights, resolved: MemoryPlan::weight_ranks).
StepShape step_shape(const ModelConfig&, const TrainConfig&, const RunPlan&, bool on_device, int64_t element_bytes,
                     int64_t weight_ranks = 1);

struct FlopsPerToken {
  double model = 0, hardware = 0;  // hardware: with what policies compute a second time
};
/// Multiply and add are two; attention by exact pairs (docs/memory.md section 5).
FlopsPerToken flops_per_token(const StepShape&, std::span<const LayerPolicy>);

/// Seconds of one layer and micro-batch, forward and backward. Copies and gathers: only what computing does not hide.
struct LayerTime {
  double products = 0, attention = 0, elementwise = 0, copies = 0, exchange = 0;
  double total() const { return products + attention + elementwise + copies + exchange; }
};
LayerTime layer_time(const StepShape&, const LayerPolicy&, const Rates&);
double layer_seconds(const StepShape&, const LayerPolicy&, const Rates&);

/// `layer_seconds` of every policy, computed once: the cost of a search.
class LayerSeconds {
 public:
  LayerSeconds(const StepShape&, const Rates&);
  double operator()(const LayerPolicy& p) const { return seconds_[index(p)]; }

 private:
  static size_t index(const LayerPolicy& p) {
    return 4 * static_cast<size_t>(p.keep) + (p.streamed ? size_t{2} : size_t{0}) + (p.offloaded ? size_t{1} : size_t{0});
  }
  std::array<double, 12> seconds_{};
};

struct StepTime {
  double products = 0, attention = 0, elementwise = 0;  // seconds of a step on a rank, all micro-batches
  double copies = 0;                                    // offloaded inputs, only what computing does not hide
  double hidden_copies = 0;                             // the rest of those copies: beside, not in the total
  double exchange = 0;                                  // between ranks: weights that computing does not hide, halos, gradients
  double optimizer = 0;
  FlopsPerToken flops;
  double tokens_per_second = 0;  // of all ranks
  double mfu = 0, hfu = 0;       // shares of Rates::peak
  std::string peak;              // its peak_text
  double total() const { return products + attention + elementwise + copies + exchange + optimizer; }
};
StepTime predict_step_time(const StepShape&, std::span<const LayerPolicy>, const Rates&);
/// "9.6 s = products 5.1 + attention 3.8 + ...", with rate of tokens, MFU, HFU and what they are shares of.
std::string step_time_text(const StepTime&);

}  // namespace longlora
