#include "plan/search.h"

#include <algorithm>
#include <limits>

#include "longlora/core/error.h"

namespace longlora::plan {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

size_t index(KeepPolicy keep) { return static_cast<size_t>(keep); }

}  // namespace

Search::Search(const LayerShape& shape, const LossShape& loss, int64_t layers, const LayerCosts& costs, Freedom freedom)
    : shape_(shape), loss_(loss), layers_(layers), costs_(costs), freedom_(freedom) {
  const bool can_stream = shape.block > 0;
  LONGLORA_INVARIANT(can_stream || freedom.streaming != Streaming::always);
  if (!can_stream) freedom_.streaming = Streaming::never;
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all}) {
    LayerBytes& b = bytes_[index(keep)];
    b.kept = kept_bytes(shape, {keep, false, true}).total();
    b.x = aligned(kept_bytes(shape, keep).x);
    for (const size_t streamed : {0, 1}) {
      if (streamed == 1 && !can_stream) continue;
      const LayerPolicy policy(keep, streamed == 1);
      b.forward[streamed] = longlora::workspace_bytes(shape, policy, LayerPass::forward).total();
      b.backward[streamed] = longlora::workspace_bytes(shape, policy, LayerPass::backward).total();
    }
  }
  hidden_bytes_ = aligned(shape.num_tokens() * shape.hidden * shape.element_bytes);
  loss_bytes_ = loss_bytes(shape, loss).total();
}

KeepPolicy Search::keep_of(const Mix& mix, int64_t layer) const {
  if (freedom_.keep) return *freedom_.keep;
  if (layer >= layers_ - mix.all) return KeepPolicy::save_all;
  return layer >= layers_ - mix.all - mix.attention ? KeepPolicy::save_attention : KeepPolicy::checkpoint;
}

int64_t Search::staging_bytes(const Mix& mix) const {
  if (mix.offloaded == 0) return 0;
  const LayerPolicy offloaded(KeepPolicy::checkpoint, mix.offloaded_streamed, true);
  return staging_shape(shape_, {&offloaded, 1}).total();
}

/// The same moments as `training_peak`, with the choice between whole and streamed made layer by layer.
std::optional<Search::Tried> Search::attempt(const Mix& mix, int64_t arena_bytes, std::vector<LayerPolicy>* policies) const {
  const int64_t staging = staging_bytes(mix);
  Tried tried;
  int64_t kept = hidden_bytes_;
  for (int64_t l = 0; l < layers_; ++l) {
    const KeepPolicy keep = keep_of(mix, l);
    const bool offloaded = l < mix.offloaded;
    const LayerBytes& b = bytes_[index(keep)];
    kept += b.kept + (offloaded ? 0 : b.x);
    const int64_t next_x = l + 1 < layers_ && l + 1 >= mix.offloaded ? b.x : 0;  // x is the same under every policy
    const auto needed = [&](size_t streamed) { return kept + std::max(next_x + b.forward[streamed], b.backward[streamed] + staging); };
    bool streamed = mix.streaming == Streaming::always;
    if (mix.streaming == Streaming::where_needed) streamed = offloaded ? mix.offloaded_streamed : needed(0) > arena_bytes;
    const int64_t bytes = needed(streamed ? 1 : 0);
    if (bytes > arena_bytes) return std::nullopt;
    tried.bytes = std::max(tried.bytes, bytes);
    tried.cost += costs_.keep[index(keep)] + (streamed ? costs_.streamed : 0) + (offloaded ? costs_.offloaded : 0);
    tried.num_streamed += streamed ? 1 : 0;
    if (policies != nullptr) policies->emplace_back(keep, streamed, offloaded);
  }
  tried.bytes = std::max(tried.bytes, kept + loss_bytes_);
  if (tried.bytes > arena_bytes) return std::nullopt;
  return tried;
}

std::vector<Streaming> Search::uniform_choices() const {
  if (freedom_.streaming == Streaming::where_needed) return {Streaming::never, Streaming::always};
  return {freedom_.streaming};
}

int64_t Search::most_offloaded(int64_t host_bytes) const {
  if (freedom_.offload == Offload::never) return 0;
  return std::min(layers_, host_bytes / std::max<int64_t>(1, bytes_[0].x));
}

template <class Body>
void Search::for_mixes(int64_t most_offloaded, Body&& body) const {
  const int64_t most = freedom_.keep ? 0 : layers_;
  const int64_t fewest_offloaded = freedom_.offload == Offload::all ? layers_ : 0;
  for (int64_t all = most; all >= 0; --all) {
    for (int64_t attention = most - all; attention >= 0; --attention) {
      for (int64_t offloaded = fewest_offloaded; offloaded <= most_offloaded; ++offloaded) {
        const bool either = offloaded > 0 && freedom_.streaming == Streaming::where_needed;
        const bool streamed = freedom_.streaming == Streaming::always;
        if (!body(Mix{all, attention, offloaded, freedom_.streaming, streamed})) break;
        if (either) body(Mix{all, attention, offloaded, freedom_.streaming, true});
      }
    }
  }
}

std::optional<Found> Search::cheapest(const Limits& limits) const {
  std::optional<Mix> best;
  Tried least;
  const auto cost_of_keeping = [&](const Mix& mix) {
    if (freedom_.keep) return 0.0;
    const double checkpoints = static_cast<double>(layers_ - mix.all - mix.attention);
    return static_cast<double>(mix.all) * costs_.keep[index(KeepPolicy::save_all)] +
           static_cast<double>(mix.attention) * costs_.keep[index(KeepPolicy::save_attention)] +
           checkpoints * costs_.keep[index(KeepPolicy::checkpoint)];
  };
  constexpr double kRounding = 1 - 1e-9;  // of sums in another order
  for_mixes(most_offloaded(limits.host_bytes), [&](const Mix& mix) {
    const double at_least = cost_of_keeping(mix) + static_cast<double>(mix.offloaded) * costs_.offloaded;
    if (best && at_least * kRounding > least.cost) return false;  // more offloaded layers cost more still
    const std::optional<Tried> tried = attempt(mix, limits.arena_bytes);
    if (tried && (!best || tried->cost < least.cost || (tried->cost == least.cost && tried->bytes < least.bytes))) {
      best = mix;
      least = *tried;
    }
    return true;
  });
  if (!best) return std::nullopt;
  Found found{.cost = least.cost};
  attempt(*best, limits.arena_bytes, &found.policies);
  found.peak = training_peak(shape_, found.policies, loss_);
  return found;
}

int64_t Search::least_arena_bytes(int64_t host_bytes) const {
  const int64_t most = freedom_.offload == Offload::all ? layers_ : most_offloaded(host_bytes);
  const int64_t fewest = freedom_.offload == Offload::all ? layers_ : 0;
  int64_t least = kNoLimit;
  for (const Streaming streaming : uniform_choices()) {
    for (const int64_t offloaded : {fewest, most})
      least = std::min(least, attempt({0, 0, offloaded, streaming, streaming == Streaming::always}, kNoLimit)->bytes);
  }
  return least;
}

std::optional<Found> Search::next_better(const Found& found) const {
  std::optional<Mix> best;
  int64_t fewest = kNoLimit;
  const int64_t most = freedom_.keep ? 0 : layers_;
  for (const Streaming streaming : uniform_choices()) {
    for (int64_t all = 0; all <= most; ++all) {
      for (int64_t attention = 0; attention <= most - all; ++attention) {
        const Mix mix{all, attention, freedom_.offload == Offload::all ? layers_ : 0, streaming, streaming == Streaming::always};
        const Tried tried = *attempt(mix, kNoLimit);
        if (tried.cost >= found.cost * (1 - 1e-9) || tried.bytes >= fewest) continue;
        best = mix;
        fewest = tried.bytes;
      }
    }
  }
  if (!best) return std::nullopt;
  Found next;
  next.cost = attempt(*best, kNoLimit, &next.policies)->cost;
  next.peak = training_peak(shape_, next.policies, loss_);
  return next;
}

std::string summary_of(const std::vector<LayerPolicy>& policies) {
  std::string text;
  for (size_t first = 0; first < policies.size();) {
    size_t last = first;
    while (last + 1 < policies.size() && policies[last + 1] == policies[first]) ++last;
    std::string name = name_of(policies[first]);
    if (const size_t comma = name.find(','); comma != name.npos) name.erase(comma, 1);  // it separates layers here
    text += (text.empty() ? "layers " : ", ") + std::to_string(first) + ".." + std::to_string(last) + " " + name;
    first = last + 1;
  }
  return text;
}

}  // namespace longlora::plan
