// The state digest's lanes against the host's.
#include "longlora/kernels/state_lanes.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/support/device_memory.h"
#include "longlora/core/hash.h"

namespace longlora::testing {
namespace {

TEST(StateLanes, EqualTheHostsBitForBit) {
  std::mt19937 random(7);
  for (const size_t count : {1, 31, 32, 255, 257, 4096, 4097, 20'001}) {
    std::vector<uint32_t> words(count);
    for (uint32_t& word : words) word = static_cast<uint32_t>(random());
    DeviceArray<uint32_t> there("words", words);
    for (const size_t skipped : {size_t{0}, size_t{1}}) {  // aligned for wide loads, and not
      const auto n = static_cast<int64_t>(count - skipped);
      if (n == 0) continue;
      DeviceArray<uint64_t> shares("shares", static_cast<size_t>(2 * kernels::lane_shares(n)));
      ASSERT_TRUE(kernels::state_lanes(there.data() + skipped, n, 0, shares.data(), nullptr).ok());
      StateLanes expected;
      expected.add(std::span(words).subspan(skipped), 0);
      std::array<uint64_t, 2> got{};
      const std::vector<uint64_t> sums = shares.read();
      for (size_t i = 0; i < sums.size(); ++i) got[i % 2] += sums[i];
      EXPECT_EQ(got, expected.lane) << count << " words from " << skipped;
    }
  }
}

TEST(StateLanes, RefusesBadArguments) {
  uint32_t word = 0;
  uint64_t share = 0;
  EXPECT_STREQ(kernels::state_lanes(&word, 0, 0, &share, nullptr).argument, "count");
  EXPECT_STREQ(kernels::state_lanes(nullptr, 1, 0, &share, nullptr).argument, "words");
  EXPECT_STREQ(kernels::state_lanes(&word, 1, 0, nullptr, nullptr).argument, "shares");
}

}  // namespace
}  // namespace longlora::testing
