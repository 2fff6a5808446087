// What the attention kernels do, counted by the emulator: no product more than the visible tiles need, no bank conflicts.
#if defined(LONGLORA_EMU)
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "emu/runtime.h"
#include "kernels/support/attention_run.h"
#include "kernels/support/sweep.h"

namespace longlora::testing {
namespace {

using kernels::ElementType;

/// Pairs of tiles, `rows` queries by `keys` keys on the grid from 0, that hold a visible pair: from group numbers, pair by pair. In the
/// wrap-around band a pair of tiles counts once more, for it is worked on apart from the own segments.
int64_t visible_tiles(const AttentionCase& c, int64_t rows, int64_t keys) {
  int64_t count = 0;
  for (int64_t b = 0; b < c.rows; ++b)
    for (int64_t h = 0; h < c.heads; ++h) {
      const bool shifted = h >= c.num_plain;
      const std::vector<int64_t> starts = c.document_starts.empty() ? std::vector<int64_t>{} : c.document_starts[static_cast<size_t>(b)];
      const std::vector<int64_t> numbers = group_numbers(c.tokens, c.group, shifted, starts);
      std::set<std::pair<int64_t, int64_t>> own, band;
      for (int64_t t = 0; t < c.tokens; ++t)
        for (int64_t u = 0; u < c.tokens; ++u) {
          if (u <= t && numbers[static_cast<size_t>(t)] == numbers[static_cast<size_t>(u)]) own.emplace(t / rows, u / keys);
          if (c.wraps && shifted && t < c.group / 2 && u >= c.tokens - c.group / 2) band.emplace(t / rows, u / keys);
        }
      count += static_cast<int64_t>(own.size() + band.size());
    }
  return count;
}

const std::vector<AttentionCase>& cases() {
  static const std::vector<AttentionCase> kCases{
      {1, 512, 256, 2, 2, 1, 64, false, {}}, {1, 512, 256, 2, 1, 1, 128, false, {}},
      {2, 300, 64, 9, 3, 4, 64, false, {}},  {1, 257, 1024, 2, 1, 1, 128, false, {}},
      {1, 384, 128, 3, 1, 1, 64, true, {}},  {1, 300, 64, 4, 2, 2, 64, false, {{0, 1, 64, 65, 190}}},
  };
  return kCases;
}

TEST(AttentionResources, MultipliesVisibleTilesOnly) {
  if (sweep() <= Sweep::small) GTEST_SKIP() << "counts do not depend on sanitizers";
  emu::options() = {};
  for (const AttentionCase& c : cases()) {
    SCOPED_TRACE("T " + std::to_string(c.tokens) + " g " + std::to_string(c.group) + " D " + std::to_string(c.head_size));
    AttentionRun run(c, ElementType::bf16, random_inputs(c, ElementType::bf16, 1));
    const auto products = [&](int64_t rows, int64_t keys) {
      return visible_tiles(c, rows, keys) * (rows / 16) * (keys / 8) * (c.head_size / 16);
    };
    emu::statistics() = {};
    run.forward();
    EXPECT_EQ(emu::statistics().multiplications, 2 * products(128, 64));
    emu::statistics() = {};
    run.backward();
    EXPECT_EQ(emu::statistics().multiplications, (4 + 3) * products(64, 64));
  }
}

TEST(AttentionResources, NoSharedAccessConflicts) {
  if (sweep() <= Sweep::small) GTEST_SKIP() << "counts do not depend on sanitizers";
  for (const AttentionCase& c : cases()) {
    emu::options() = {};
    emu::options().count_bank_conflicts = true;
    emu::statistics() = {};
    AttentionRun run(c, ElementType::bf16, random_inputs(c, ElementType::bf16, 1));
    run.forward();
    run.backward();
    emu::options() = {};
    for (const char* word :
         {"load_matrices at", "load_matrices_transposed at", "copy_async_16 at", "load_128 at", "store_128 at", "store at"})
      EXPECT_TRUE(std::any_of(emu::statistics().bank_conflicts.begin(), emu::statistics().bank_conflicts.end(),
                              [&](const auto& place) { return place.first.starts_with(word); }))
          << word << " was not counted";
    for (const auto& [place, ways] : emu::statistics().bank_conflicts) EXPECT_EQ(ways, 1) << place << ", D " << c.head_size;
  }
}

}  // namespace
}  // namespace longlora::testing
#endif
