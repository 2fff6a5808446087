#pragma once
// Shared memory's 32 banks: how many passes an access of a warp takes. Part of the runtime (runtime.cpp).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace longlora::emu {

struct SharedAccess {
  int thread;
  uintptr_t offset;
  size_t bytes;
};

/// Ways of one access of some lanes of a warp: 32 banks of 4 bytes; 16-byte accesses go in four passes of 8 lanes, 8-byte ones in two.
inline int conflict_ways(const std::vector<SharedAccess>& lanes) {
  int worst = 1;
  const size_t per_pass = 128 / std::max<size_t>(lanes.front().bytes, 4);
  for (size_t first = 0; first < 32; first += per_pass) {
    std::map<uintptr_t, std::set<uintptr_t>> words_of_bank;
    for (const SharedAccess& a : lanes) {
      const auto lane = static_cast<size_t>(a.thread % 32);
      if (lane < first || lane >= first + per_pass) continue;
      for (uintptr_t word = a.offset / 4; word < (a.offset + std::max<size_t>(a.bytes, 4)) / 4; ++word)
        words_of_bank[word % 32].insert(word);
    }
    for (const auto& [bank, words] : words_of_bank) worst = std::max(worst, static_cast<int>(words.size()));
  }
  return worst;
}

}  // namespace longlora::emu
