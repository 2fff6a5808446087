// What to change when nothing fits, cheapest first: each candidate is planned, and named only if it really fits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/setup.h"

namespace longlora::plan {
namespace {

constexpr size_t kMostRemedies = 3;

/// Rounded up, so that what is advised is enough.
std::string at_least_gib(int64_t bytes) {
  return fmt::format(" >= {:.1f} GiB", std::ceil(static_cast<double>(bytes) / (1 << 30) * 10) / 10);
}

class Candidates {
 public:
  Candidates(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target)
      : model_(model), config_(config), run_(run), target_(target) {}

  /// Nothing of the result changes, and little of the speed.
  void same_result() {
    using Memory = TrainConfig::Memory;
    const bool fixed = config_.memory.policy != MemoryPolicy::automatic, whole = config_.memory.halo_streaming == HaloStreaming::off;
    const auto policy = [](Memory& m) { m.policy = MemoryPolicy::automatic; };
    const auto streaming = [](Memory& m) { m.halo_streaming = HaloStreaming::automatic; };
    bool fits = false;
    if (fixed) fits |= with_config("memory.policy: auto", [&](TrainConfig& c) { policy(c.memory); });
    if (whole) fits |= with_config("memory.halo_streaming: auto", [&](TrainConfig& c) { streaming(c.memory); });
    if (fixed && whole && !fits)
      with_config("memory.policy and memory.halo_streaming: auto", [&](TrainConfig& c) { policy(c.memory), streaming(c.memory); });
    more_host_memory();
    const bool several = run_.ranks * config_.dist.sequence_parallel > 1;
    if (several && config_.tuning.mode != TuningMode::full && config_.dist.shard_weights == ShardWeights::none)
      with_config("dist.shard_weights: auto", [](TrainConfig& c) { c.dist.shard_weights = ShardWeights::automatic; });
    if (run_.ranks > 1 && config_.dist.shard_state == AutoBool::off)
      with_config("dist.shard_state: auto", [](TrainConfig& c) { c.dist.shard_state = AutoBool::automatic; });
  }

  /// Another run, or less of it.
  void other_result() {
    if (config_.evaluate.every > 0) with_config("evaluate.every: 0", [](TrainConfig& c) { c.evaluate.every = 0; });
    if (run_.micro_batch > 1) {
      RunPlan single = run_;
      single.accumulation *= single.micro_batch;
      single.canonical_shards *= single.micro_batch;
      single.micro_batch = 1;
      add("train.micro_batch: 1", config_, single, target_);
    }
    const int64_t longest = longest_that_fits(model_, config_, run_, target_, run_.sequence_length - 1);
    if (longest > 0) add_number(fmt::format("data.sequence_length: {}", longest), config_, with_length(config_, run_, longest), target_);
    if (config_.attention.full_steps > 0) with_config("attention.full_steps: 0", [](TrainConfig& c) { c.attention.full_steps = 0; });
    if (can_freeze_embeddings()) with_config("tuning.train_embeddings: false", [](TrainConfig& c) { c.tuning.train_embeddings = false; });
  }

  /// What the configuration needs as it is.
  void more_memory() {
    const Need need = need_of(model_, config_, run_, target_);
    std::string text;
    if (need.bytes > target_.budget_bytes) text = budget_key(target_) + at_least_gib(need.bytes);
    if (need.host_bytes > target_.host_budget_bytes)
      text += (text.empty() ? "" : " and ") + ("memory.host_budget" + at_least_gib(need.host_bytes));
    texts_.push_back(text);
  }

  std::string text() const {
    std::string all = "set ";
    const size_t count = std::min(kMostRemedies, texts_.size());
    for (size_t i = 0; i < count; ++i) all += (i == 0 ? "" : i + 1 == count ? " or " : ", ") + texts_[i];
    return all;
  }

 private:
  bool add(const std::string& change, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
    return add_number(change, config, run, target, true);
  }
  /// A change that says a number already.
  bool add_number(std::string change, const TrainConfig& config, const RunPlan& run, const PlanTarget& target, bool with_need = false) {
    if (texts_.size() >= kMostRemedies) return false;
    const Need need = need_of(model_, config, run, target);
    if (!need.within(target)) return false;
    if (with_need) change += " (" + gib_text(need.bytes) + ")";
    texts_.push_back(std::move(change));
    return true;
  }

  /// Something else is trained, and a tied head does not insist on them.
  bool can_freeze_embeddings() const {
    TrainConfig::Tuning tuning = config_.tuning;
    if (tuning.mode != TuningMode::lora || !tuning.train_embeddings || (model_.tied && tuning.train_head)) return false;
    tuning.train_embeddings = false;
    return count_parameters(model_, tuning).trainable > 0;
  }

  template <class Change>
  bool with_config(const std::string& text, Change&& change) {
    TrainConfig config = config_;
    change(config);
    return add(text, config, run_, target_);
  }

  /// The fewest inputs of layers on the host that make the device's part fit.
  void more_host_memory() {
    if (target_.device != PlanTarget::Device::gpu || config_.memory.policy != MemoryPolicy::automatic) return;
    const int64_t tokens = run_.micro_batch * longest_part(run_, config_.dist.sequence_parallel);
    const int64_t input = aligned(tokens * model_.hidden_size * target_.element_bytes);
    const auto with = [&](int64_t layers) {
      PlanTarget more = target_;
      more.host_budget_bytes = layers * input;
      return more;
    };
    int64_t low = target_.host_budget_bytes / input + 1, high = model_.num_layers;
    const auto fits = [&](int64_t layers) { return need_of(model_, config_, run_, with(layers)).within(with(layers)); };
    if (low > high || !fits(high)) return;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (fits(middle))
        high = middle;
      else
        low = middle + 1;
    }
    add_number("memory.host_budget" + at_least_gib(high * input), config_, run_, with(high));
  }

  const ModelConfig& model_;
  const TrainConfig& config_;
  const RunPlan& run_;
  const PlanTarget& target_;
  std::vector<std::string> texts_;
};

}  // namespace

std::string remedies(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  Candidates candidates(model, config, run, target);
  candidates.same_result();
  candidates.other_result();
  candidates.more_memory();
  return candidates.text();
}

}  // namespace longlora::plan
