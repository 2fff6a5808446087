#include "longlora/data/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "longlora/core/error.h"

namespace longlora {
namespace {

constexpr uint64_t kBlock = 4096;       // rows in which the shares of the sources are exact
constexpr uint32_t kRounds = 6;

uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

/// Smallest b >= 1 with 4^b >= n.
uint32_t half_bits(uint64_t n) {
  uint32_t b = 1;
  while (b < 32 && (uint64_t{1} << (2 * b)) < n) ++b;
  return b;
}

}  // namespace

uint64_t permute(uint64_t seed, Purpose purpose, uint64_t epoch, uint64_t n, uint64_t index) {
  LONGLORA_INVARIANT(n > 0 && index < n);
  const auto words = philox4x32({low(epoch), uint32_t{static_cast<uint8_t>(purpose)} << 24, high(epoch), 0}, {low(seed), high(seed)});
  const std::array<uint32_t, 2> key = {words[0], words[1]};
  const uint32_t b = half_bits(n);
  const uint32_t mask = low((uint64_t{1} << b) - 1);
  uint64_t x = index;
  do {
    uint32_t left = low(x >> b) & mask, right = low(x) & mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const uint32_t mixed = left ^ (philox4x32({round, right, 0, 0}, key)[0] & mask);
      left = right;
      right = mixed;
    }
    x = (uint64_t{left} << b) | right;
  } while (x >= n);                     // cycle walking: the walk from an index < n comes back below n
  return x;
}

std::vector<uint32_t> mixture_slots(const std::vector<double>& weights) {
  for (const double w : weights)
    LONGLORA_CHECK(std::isfinite(w) && w > 0, config, fmt::format("weight {} must be positive", w), "data.train",
                   "give every entry a weight above 0");
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  LONGLORA_CHECK(std::isfinite(sum), config, "the sum of the weights overflows", "data.train", "use smaller weights");
  std::vector<uint32_t> slots(weights.size());
  std::vector<double> remainder(weights.size());
  uint64_t used = 0;
  for (size_t d = 0; d < weights.size(); ++d) {
    const double share = kBlock * (weights[d] / sum);
    slots[d] = static_cast<uint32_t>(share);
    remainder[d] = share - slots[d];
    used += slots[d];
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t c) { return remainder[a] > remainder[c]; });
  for (size_t i = 0; used < kBlock; ++i, ++used) ++slots[order[i % order.size()]];
  for (size_t d = 0; d < slots.size(); ++d)
    LONGLORA_CHECK(slots[d] > 0, config, fmt::format("weight {} of entry {} is less than 1/4096 of all", weights[d], d), "data.train",
                   "raise it or remove the entry");
  return slots;
}

Sampler::Sampler(SamplerOptions options) : options_(std::move(options)) {
  LONGLORA_INVARIANT(!options_.rows.empty());
  LONGLORA_INVARIANT(options_.weights.empty() || options_.weights.size() == options_.rows.size());
  first_row_.push_back(0);
  for (const uint64_t rows : options_.rows) {
    LONGLORA_INVARIANT(rows > 0);
    first_row_.push_back(first_row_.back() + rows);
  }
  if (!options_.weights.empty()) slots_ = mixture_slots(options_.weights);
}

uint64_t Sampler::rows_per_epoch() const { return first_row_.back(); }

uint64_t Sampler::permuted(Purpose purpose, uint64_t epoch, uint64_t n, uint64_t index) const {
  return options_.shuffle ? permute(options_.seed, purpose, epoch, n, index) : index;
}

RowPlace Sampler::place(uint64_t g) const {
  if (slots_.empty()) {
    const uint64_t rows = rows_per_epoch(), epoch = g / rows;
    const uint64_t pooled = permuted(Purpose::sampler_rows, epoch, rows, g % rows);
    const auto source = std::upper_bound(first_row_.begin(), first_row_.end(), pooled) - first_row_.begin() - 1;
    return {.source = static_cast<uint32_t>(source), .row = pooled - first_row_[source], .epoch = epoch};
  }
  const uint64_t block = g / kBlock;
  uint64_t slot = permuted(Purpose::sampler_mix, block, kBlock, g % kBlock);
  uint32_t source = 0;
  while (slot >= slots_[source]) slot -= slots_[source++];
  const uint64_t running = block * slots_[source] + slot, rows = options_.rows[source], epoch = running / rows;
  return {.source = source, .row = permuted(Purpose::sampler_rows, epoch, rows, running % rows), .epoch = epoch};
}

}  // namespace longlora
