#pragma once
// Flat hash table from a pair of token ids to a merge: one cache line a look-up, which is what encoding spends its time on.

#include <bit>
#include <cstdint>
#include <vector>

namespace longlora {

struct MergeRule {
  uint32_t rank = 0;      // lower merges first
  int32_t result = -1;    // id of the joined token
};

class PairTable {
 public:
  /// Room for `pairs` entries; fixed afterwards.
  explicit PairTable(size_t pairs = 0) : slots_(std::bit_ceil(2 * pairs + 2)) {}

  void set(int32_t left, int32_t right, MergeRule rule) {   // a pair set again takes the later rule
    Slot& slot = slots_[index_of(key_of(left, right))];
    slot = {key_of(left, right), rule};
  }
  const MergeRule* find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[index_of(key_of(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.rule;
  }
  bool contains(int32_t left, int32_t right) const { return find(left, right) != nullptr; }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;   // ids are never negative
  struct Slot {
    uint64_t key = kEmpty;
    MergeRule rule;
  };
  static uint64_t key_of(int32_t left, int32_t right) { return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right); }
  size_t index_of(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    size_t at = static_cast<size_t>(h ^ (h >> 32)) & mask;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

}  // namespace longlora
