// Philox4x32-10 against the known-answer vectors that its authors published.

#include "longlora/core/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace longlora {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, EqualsTheKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, TheStreamPlacesItsPartsInTheCounter) {
  const PhiloxStream stream{
      .seed = 0x299f31d0a4093822, .purpose = Purpose::lora_dropout, .site = 5, .layer = 1027, .step = 0x13198a2e, .row = 9};
  EXPECT_EQ(stream.words(77), philox4x32({77, 0x02050403, 0x13198a2e, 9}, {0xa4093822, 0x299f31d0}));
}

TEST(Philox, EveryPartOfTheStreamChangesTheWords) {
  const PhiloxStream base{.seed = 1, .purpose = Purpose::initialise};
  std::set<Words> seen = {base.words(0), base.words(1)};
  const auto with = [&](auto change) {
    PhiloxStream other = base;
    change(other);
    return other.words(0);
  };
  seen.insert(with([](auto& s) { s.seed = 2; }));
  seen.insert(with([](auto& s) { s.seed = uint64_t{1} << 32; }));
  seen.insert(with([](auto& s) { s.purpose = Purpose::generate; }));
  seen.insert(with([](auto& s) { s.site = 1; }));
  seen.insert(with([](auto& s) { s.layer = 1; }));
  seen.insert(with([](auto& s) { s.step = 1; }));
  seen.insert(with([](auto& s) { s.row = 1; }));
  EXPECT_EQ(seen.size(), 9u);
}

TEST(Uniform, IsInTheHalfOpenUnitInterval) {
  EXPECT_EQ(uniform_from(0), 0.0f);
  EXPECT_EQ(uniform_from(0xffu), 0.0f);
  EXPECT_EQ(uniform_from(0x100u), 0x1p-24f);
  EXPECT_LT(uniform_from(~0u), 1.0f);
}

TEST(Normals, AreFiniteAtTheCornersAndHaveTheRightMoments) {
  for (const uint32_t a : {0u, 1u, ~0u})
    for (const uint32_t b : {0u, 1u, 0x80000000u, ~0u})
      for (const float x : normals_from(a, b)) EXPECT_TRUE(std::isfinite(x));
  constexpr int kBlocks = 50000;
  double sums[5] = {};
  for (uint32_t block = 0; block < kBlocks; ++block) {
    const Words w = PhiloxStream{.seed = 3, .purpose = Purpose::initialise}.words(block);
    for (const float x : normals_from(w[0], w[1]))
      for (int power = 1; power <= 4; ++power) sums[power] += std::pow(static_cast<double>(x), power) / (2 * kBlocks);
  }
  const double moments[5] = {1, 0, 1, 0, 3}, variances[5] = {0, 1, 2, 15, 96};   // of x, x^2, x^3, x^4
  for (int power = 1; power <= 4; ++power)
    EXPECT_NEAR(sums[power], moments[power], 5 * std::sqrt(variances[power] / (2 * kBlocks))) << power;
}

}  // namespace
}  // namespace longlora
