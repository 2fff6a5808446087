// data.md D2 and D3: the permutation is one, and the shares of a mixture are exact.
#include "longlora/data/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "support/error_of.h"

namespace longlora {
namespace {

struct Vector { uint64_t seed; Purpose purpose; uint64_t epoch, n; std::array<uint64_t, 4> index, value; };

// Made by a separate implementation in Python (arbitrary integers) written from the definition in the header.
const Vector kVectors[] = {
    {0x2au, Purpose::sampler_rows, 0x0u, 1u, {0u, 0u, 0u, 0u}, {0u, 0u, 0u, 0u}},
    {0x2au, Purpose::sampler_rows, 0x0u, 2u, {0u, 1u, 0u, 1u}, {1u, 0u, 1u, 0u}},
    {0x2au, Purpose::sampler_rows, 0x0u, 4u, {0u, 1u, 1u, 3u}, {1u, 0u, 0u, 3u}},
    {0x2au, Purpose::sampler_rows, 0x0u, 16u, {0u, 1u, 5u, 15u}, {1u, 0u, 7u, 14u}},
    {0x2au, Purpose::sampler_rows, 0x7u, 17u, {0u, 1u, 5u, 16u}, {12u, 11u, 9u, 1u}},
    {0x2au, Purpose::sampler_mix, 0x0u, 4096u, {0u, 1u, 1365u, 4095u}, {1294u, 2872u, 3109u, 3609u}},
    {0x1u, Purpose::sampler_rows, 0x0u, 1000u, {0u, 1u, 333u, 999u}, {4u, 224u, 257u, 304u}},
    {0xfedcba9876543210u, Purpose::sampler_rows, 0x100000002u, 5000000000u, {0u, 1u, 1666666666u, 4999999999u},
     {4737462523u, 911597605u, 1273646947u, 1683684824u}},
    {0x7u, Purpose::sampler_mix, 0x3u, 9223372036854775817u, {0u, 1u, 3074457345618258605u, 9223372036854775816u},
     {8877422169381936819u, 3310329671642430870u, 8305620409118633086u, 7076370357994740796u}},
};

TEST(Permute, GivesTheCommittedVectors) {
  for (const Vector& v : kVectors)
    for (size_t i = 0; i < v.index.size(); ++i)
      EXPECT_EQ(permute(v.seed, v.purpose, v.epoch, v.n, v.index[i]), v.value[i]) << v.n << " " << v.index[i];
}

bool is_bijection(uint64_t seed, uint64_t epoch, uint64_t n) {
  std::vector<bool> seen(n);
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t image = permute(seed, Purpose::sampler_rows, epoch, n, i);
    if (image >= n || seen[image]) return false;
    seen[image] = true;
  }
  return true;
}

TEST(Permute, IsABijectionForEveryNUpTo4096) {
  for (uint64_t n = 1; n <= 4096; ++n) ASSERT_TRUE(is_bijection(42, n % 3, n)) << n;
}

TEST(Permute, IsABijectionForRandomN) {
  std::mt19937 random(5);
  for (int i = 0; i < 12; ++i) {
    const uint64_t n = 4097 + random() % 100'000;
    ASSERT_TRUE(is_bijection(random(), random(), n)) << n;
  }
}

TEST(Permute, IsInjectiveOnSamplesOfHugeN) {
  std::mt19937_64 random(6);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t n = (random() >> (random() % 40)) | (uint64_t{1} << 20);
    std::set<uint64_t> images;
    for (uint64_t index = n - 20; index < n; ++index) images.insert(permute(9, Purpose::sampler_rows, 1, n, index));
    ASSERT_EQ(images.size(), 20u) << n;
    ASSERT_LT(*images.rbegin(), n);
  }
}

TEST(Permute, DiffersBySeedPurposeAndEpoch) {
  const auto order = [](uint64_t seed, Purpose purpose, uint64_t epoch) {
    std::vector<uint64_t> v(100);
    for (uint64_t i = 0; i < v.size(); ++i) v[i] = permute(seed, purpose, epoch, v.size(), i);
    return v;
  };
  const std::set<std::vector<uint64_t>> orders = {order(1, Purpose::sampler_rows, 0), order(2, Purpose::sampler_rows, 0),
                                                  order(1, Purpose::sampler_mix, 0), order(1, Purpose::sampler_rows, 1),
                                                  order(uint64_t{1} << 32, Purpose::sampler_rows, 0)};
  EXPECT_EQ(orders.size(), 5u);
}

TEST(Sampler, OnePoolGivesEveryRowOnceAnEpoch) {
  const Sampler sampler({.seed = 3, .rows = {5, 1, 7}});
  EXPECT_EQ(sampler.rows_per_epoch(), 13u);
  for (uint64_t epoch = 0; epoch < 4; ++epoch) {
    std::set<std::pair<uint32_t, uint64_t>> seen;
    for (uint64_t i = 0; i < 13; ++i) {
      const RowPlace place = sampler.place(epoch * 13 + i);
      EXPECT_EQ(place.epoch, epoch);
      EXPECT_LT(place.row, (std::array<uint64_t, 3>{5, 1, 7}[place.source]));
      seen.insert({place.source, place.row});
    }
    EXPECT_EQ(seen.size(), 13u);
  }
}

TEST(Sampler, WithoutShuffleRowsComeInOrder) {
  const Sampler sampler({.shuffle = false, .rows = {2, 3}});
  std::vector<std::pair<uint32_t, uint64_t>> seen;
  for (uint64_t g = 0; g < 7; ++g) seen.push_back({sampler.place(g).source, sampler.place(g).row});
  EXPECT_EQ(seen, (std::vector<std::pair<uint32_t, uint64_t>>{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 2}, {0, 0}, {0, 1}}));
}

TEST(Mixture, SlotsAreTheLargestRemainders) {
  EXPECT_EQ(mixture_slots({1, 1, 1}), (std::vector<uint32_t>{1366, 1365, 1365}));
  EXPECT_EQ(mixture_slots({0.5, 0.25, 0.25}), (std::vector<uint32_t>{2048, 1024, 1024}));
  EXPECT_EQ(mixture_slots({3}), (std::vector<uint32_t>{4096}));
  EXPECT_EQ(mixture_slots({4095, 1}), (std::vector<uint32_t>{4095, 1}));
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    std::vector<double> weights(1 + random() % 9);
    for (double& w : weights) w = 0.05 + static_cast<double>(random() % 1000) / 1000;
    const auto slots = mixture_slots(weights);
    EXPECT_EQ(std::accumulate(slots.begin(), slots.end(), 0u), 4096u);
  }
}

TEST(Mixture, WeightsTooSmallOrNotPositiveAreRefused) {
  EXPECT_EQ(error_of([] {
              mixture_slots({1, 1e-6});
            }),
            "weight 1e-06 of entry 1 is less than 1/4096 of all (data.train); raise it or remove the entry");
  for (const double bad : {0.0, -1.0, HUGE_VAL, static_cast<double>(NAN)})
    EXPECT_EQ(kind_of([&] { mixture_slots({1, bad}); }), ErrorKind::config) << bad;
}

TEST(Mixture, SharesAreExactInEveryBlockAndSourcesRunThroughTheirEpochs) {
  const std::vector<uint64_t> rows = {10, 5000, 333};
  const Sampler sampler({.seed = 11, .rows = rows, .weights = {2, 1, 0.7}});
  const auto slots = mixture_slots({2, 1, 0.7});
  std::vector<std::map<uint64_t, std::set<uint64_t>>> by_epoch(3);
  std::vector<uint64_t> total(3, 0);
  for (uint64_t block = 0; block < 5; ++block) {
    std::vector<uint32_t> count(3, 0);
    for (uint64_t i = 0; i < 4096; ++i) {
      const RowPlace place = sampler.place(block * 4096 + i);
      ++count[place.source];
      EXPECT_TRUE(by_epoch[place.source][place.epoch].insert(place.row).second) << "a row twice in an epoch";
    }
    EXPECT_EQ(count, slots);
    for (int d = 0; d < 3; ++d) total[d] += count[d];
  }
  for (int d = 0; d < 3; ++d)
    for (const auto& [epoch, seen] : by_epoch[d]) {
      const uint64_t expected = std::min(rows[d], total[d] - epoch * rows[d]);
      EXPECT_EQ(seen.size(), expected) << "source " << d << " epoch " << epoch;
    }
}

}  // namespace
}  // namespace longlora
