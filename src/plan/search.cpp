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
  for (const size_t streamed : {0, 1}) {
    if (streamed == 1 && !can_stream) continue;
    const LayerPolicy offloaded(KeepPolicy::checkpoint, streamed == 1, true);
    staging_bytes_[streamed] = staging_shape(shape, {&offloaded, 1}).total();
  }
  hidden_bytes_ = aligned(shape.num_tokens() * shape.hidden * shape.element_bytes);
  loss_bytes_ = loss_bytes(shape, loss).total();
}

KeepPolicy Search::keep_of(const Mix& mix, int64_t layer) const {
  if (freedom_.keep) return *freedom_.keep;
  if (layer >= layers_ - mix.all) return KeepPolicy::save_all;
  return layer >= layers_ - mix.all - mix.attention ? KeepPolicy::save_attention : KeepPolicy::checkpoint;
}

/// The same moments as `training_peak`, with the choice between whole and streamed made layer by layer.
Search::Tried Search::attempt(const Mix& mix, int64_t arena_bytes, std::vector<LayerPolicy>* policies) const {
  using Result = Tried::Result;
  const int64_t staging = mix.offloaded > 0 ? staging_bytes_[mix.offloaded_streamed ? 1 : 0] : 0;
  Tried tried;
  int64_t kept = hidden_bytes_;
  for (int64_t l = 0; l < layers_; ++l) {
    const size_t keep = index(keep_of(mix, l));
    const bool offloaded = l < mix.offloaded;
    const LayerBytes& b = bytes_[keep];
    kept += b.kept + (offloaded ? 0 : b.x);
    const int64_t next_x = l + 1 < layers_ && l + 1 >= mix.offloaded ? b.x : 0;  // x is the same under every policy
    const auto needed = [&](size_t s, int64_t x) { return kept + std::max(x + b.forward[s], b.backward[s] + staging); };
    bool streamed = mix.streaming == Streaming::always;
    if (mix.streaming == Streaming::where_needed) streamed = offloaded ? mix.offloaded_streamed : needed(0, next_x) > arena_bytes;
    const int64_t bytes = needed(streamed ? 1 : 0, next_x);
    if (bytes > arena_bytes) {
      const bool more_helps = !offloaded || needed(streamed ? 1 : 0, 0) <= arena_bytes;
      return {.result = more_helps ? Result::offload_more : Result::offload_fewer};
    }
    tried.bytes = std::max(tried.bytes, bytes);
    tried.cost += costs_.at({static_cast<KeepPolicy>(keep), streamed, offloaded});
    tried.num_streamed += streamed ? 1 : 0;
    if (policies != nullptr) policies->emplace_back(static_cast<KeepPolicy>(keep), streamed, offloaded);
  }
  tried.bytes = std::max(tried.bytes, kept + loss_bytes_);
  if (tried.bytes > arena_bytes) tried.result = Result::offload_more;
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

/// Whatever of the layers that are not offloaded is streamed.
double Search::least_cost(const Mix& mix) const {
  double cost = 0;
  const auto add = [&](KeepPolicy keep, int64_t begin, int64_t end) {
    const int64_t offloaded = std::clamp(mix.offloaded - begin, int64_t{0}, end - begin);
    const double here = std::min(costs_.at({keep, false, false}), costs_.at({keep, true, false}));
    cost += static_cast<double>(offloaded) * costs_.at({keep, mix.offloaded_streamed, true});
    cost += static_cast<double>(end - begin - offloaded) * here;
  };
  const int64_t all = layers_ - mix.all, attention = all - mix.attention;
  if (freedom_.keep) {
    add(*freedom_.keep, 0, layers_);
  } else {
    add(KeepPolicy::checkpoint, 0, attention);
    add(KeepPolicy::save_attention, attention, all);
    add(KeepPolicy::save_all, all, layers_);
  }
  return cost * (1 - 1e-9);  // sums in another order round otherwise
}

void Search::consider(const Mix& mix, const Tried& tried, Best& best) const {
  if (!tried.fits()) return;
  const bool cheaper = tried.cost < best.tried.cost || (tried.cost == best.tried.cost && tried.bytes < best.tried.bytes);
  if (!best.mix || cheaper) best = {mix, tried};
}

/// Offloads 1 .. most inputs. The numbers that fit are a range: layers that are not offloaded want more, those that are (and are whole)
/// fewer. From its least number on, more offload can make layers whole.
void Search::try_offloads(Mix mix, int64_t most, int64_t arena_bytes, Best& best) const {
  const int64_t first = std::max<int64_t>(1, fewest_offloaded());
  int64_t low = first, high = most, least = most + 1;
  while (low <= high) {
    mix.offloaded = low + (high - low) / 2;
    const Tried tried = attempt(mix, arena_bytes);
    if (tried.fits()) least = mix.offloaded;
    if (tried.result == Tried::Result::offload_more)
      low = mix.offloaded + 1;
    else
      high = mix.offloaded - 1;
  }
  for (mix.offloaded = least; mix.offloaded <= most; ++mix.offloaded) {
    if (best.mix && least_cost(mix) > best.tried.cost) return;
    const Tried tried = attempt(mix, arena_bytes);
    if (!tried.fits()) return;
    consider(mix, tried, best);
    if (mix.streaming != Streaming::where_needed || tried.num_streamed == 0) return;
  }
}

Found Search::found(const Mix& mix, int64_t arena_bytes) const {
  Found found;
  found.cost = attempt(mix, arena_bytes, &found.policies).cost;
  found.peak = training_peak(shape_, found.policies, loss_);
  return found;
}

std::optional<Found> Search::cheapest(const Limits& limits) const {
  const int64_t most = freedom_.keep ? 0 : layers_, offloads = most_offloaded(limits.host_bytes);
  Best best;
  for (int64_t all = most; all >= 0; --all) {
    for (int64_t attention = most - all; attention >= 0; --attention) {
      Mix mix{all, attention, 0, freedom_.streaming, freedom_.streaming == Streaming::always};
      if (best.mix && least_cost(mix) > best.tried.cost) continue;
      if (fewest_offloaded() == 0) consider(mix, attempt(mix, limits.arena_bytes), best);
      try_offloads(mix, offloads, limits.arena_bytes, best);
      if (freedom_.streaming != Streaming::where_needed) continue;
      mix.offloaded_streamed = true;
      try_offloads(mix, offloads, limits.arena_bytes, best);
    }
  }
  if (!best.mix) return std::nullopt;
  return found(*best.mix, limits.arena_bytes);
}

int64_t Search::least_arena_bytes(int64_t host_bytes) const {
  const int64_t fewest = fewest_offloaded(), most = std::max(fewest, most_offloaded(host_bytes));
  int64_t least = kNoLimit;
  for (const Streaming streaming : uniform_choices())
    for (const int64_t offloaded : {fewest, most})
      least = std::min(least, attempt({0, 0, offloaded, streaming, streaming == Streaming::always}, kNoLimit).bytes);
  return least;
}

std::optional<Found> Search::next_better(const Found& than) const {
  Best best;
  const int64_t most = freedom_.keep ? 0 : layers_;
  for (const Streaming streaming : uniform_choices()) {
    for (int64_t all = 0; all <= most; ++all) {
      for (int64_t attention = 0; attention <= most - all; ++attention) {
        const Mix mix{all, attention, fewest_offloaded(), streaming, streaming == Streaming::always};
        const Tried tried = attempt(mix, kNoLimit);
        const bool better = tried.cost < than.cost * (1 - 1e-9);
        if (better && (!best.mix || tried.bytes < best.tried.bytes)) best = {mix, tried};
      }
    }
  }
  if (!best.mix) return std::nullopt;
  return found(*best.mix, kNoLimit);
}

std::string summary_of(const std::vector<LayerPolicy>& policies) {
  std::string text;
  for (size_t first = 0; first < policies.size();) {
    size_t last = first;
    while (last + 1 < policies.size() && policies[last + 1] == policies[first]) ++last;
    std::string name = name_of(policies[first]);
    if (const size_t comma = name.find(','); comma != name.npos) name.erase(comma, 1);  // it separates layers here
    text += (text.empty() ? "layers " : ", ") + std::to_string(first) + (last > first ? ".." + std::to_string(last) : "") + " " + name;
    first = last + 1;
  }
  return text;
}

}  // namespace longlora::plan
