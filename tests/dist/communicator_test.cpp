#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

#include "support/process_ranks.h"

namespace longlora::dist {
namespace {

using test::ProcessRanks;
using test::RankEnd;
using testing::HasSubstr;

constexpr size_t kSizes[] = {0, 1, 16384 * 4, (1 << 20) + 1, 5 << 20};

std::vector<std::byte> pattern(size_t bytes, int seed) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>((i * 31 + i / 251 + static_cast<size_t>(seed) * 97) & 255);
  return data;
}

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

void expect_all_zero(const std::vector<RankEnd>& ends) {
  for (size_t i = 0; i < ends.size(); ++i) EXPECT_EQ(ends[i].code, 0) << "rank " << i << ": " << ends[i].message;
}

void check_pairs(Communicator& world, size_t bytes) {
  const int me = world.rank(), size = world.size();
  for (int a = 0; a < size; ++a) {
    for (int b = a + 1; b < size; ++b) {
      const bool is_far = b - a != 1 && b - a != size - 1;  // neighbours and the two ends say enough for many ranks
      if ((size > 4 && is_far) || (me != a && me != b)) continue;
      const int peer = me == a ? b : a;
      const auto mine = pattern(bytes, me), theirs = pattern(bytes / 2 + 3, peer);  // sizes differ by direction
      std::vector<std::byte> in(me == a ? bytes / 2 + 3 : bytes);
      const auto& out = me == a ? mine : pattern(bytes / 2 + 3, me);
      world.exchange(peer, {out.data(), out.size()}, {in.data(), in.size()});
      require(in == (me == a ? theirs : pattern(bytes, peer)), "exchange");
      std::vector<std::byte> one_way(bytes);
      if (me == a) world.send(b, {mine.data(), mine.size()});
      if (me == b) world.receive(a, {one_way.data(), bytes});
      require(me == a || one_way == pattern(bytes, a), "send");
    }
  }
}

void check_collectives(Communicator& world, size_t bytes) {
  const int size = world.size();
  const auto mine = pattern(bytes, world.rank());
  std::vector<std::byte> all(bytes * static_cast<size_t>(size));
  world.all_gather({mine.data(), bytes}, {all.data(), all.size()});
  for (int r = 0; r < size; ++r) {
    const auto theirs = pattern(bytes, r);
    require(std::equal(theirs.begin(), theirs.end(), all.begin() + static_cast<std::ptrdiff_t>(bytes * static_cast<size_t>(r))),
            "all_gather");
  }
  world.all_gather({all.data() + bytes * static_cast<size_t>(world.rank()), bytes}, {all.data(), all.size()});  // in place
  for (int root = 0; root < size; ++root) {
    std::vector<std::byte> data = root == world.rank() ? pattern(bytes, 40 + root) : std::vector<std::byte>(bytes);
    world.broadcast({data.data(), bytes}, root);
    require(data == pattern(bytes, 40 + root), "broadcast");
  }
}

void check_values(Communicator& world) {
  const int64_t me = world.rank(), size = world.size(), big = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> sums = {me, -me, 1, me == 0 ? big : 0}, maxima = {me, -me, me == 1 ? big : -big};
  world.sum(sums);
  require(sums == std::vector<int64_t>{size * (size - 1) / 2, -size * (size - 1) / 2, size, big}, "sum");
  world.max(maxima);
  require(maxima == std::vector<int64_t>{size - 1, 0, size > 1 ? big : -big}, "max");
  const auto statuses = world.barrier({static_cast<int32_t>(me) * 3, std::string(static_cast<size_t>(me) * 700, 'x')});
  for (size_t r = 0; r < statuses.size(); ++r) {
    require(statuses[r].code == static_cast<int32_t>(r) * 3, "barrier code");
    require(statuses[r].text.size() == (size > 1 ? std::min<size_t>(r * 700, 1024) : 0), "barrier text");
  }
}

class World : public testing::TestWithParam<int> {};

TEST_P(World, MovesEveryByteOfEveryOperation) {
  ProcessRanks ranks(GetParam());
  ranks.start_all([](Communicator& world) {
    for (const size_t bytes : kSizes) {
      check_pairs(world, bytes);
      check_collectives(world, bytes);
    }
    check_values(world);
    return "";
  });
  expect_all_zero(ranks.wait());
}
INSTANTIATE_TEST_SUITE_P(Sizes, World, testing::Values(1, 2, 3, 4, 8));

TEST(Communicator, MovesBytesOverTcpToo) {
  ProcessRanks ranks(3);
  ::setenv("LONGLORA_SECRET", std::string(64, 'a').c_str(), 1);
  ranks.change([](test::RankSetup& setup) {
    setup.launch.local_rank = 0, setup.launch.local_world_size = 1;
    setup.launch.endpoint = Endpoint{"127.0.0.1", 29617};
  });
  ranks.start_all([](Communicator& world) {
    for (const size_t bytes : kSizes) {
      check_pairs(world, bytes);
      check_collectives(world, bytes);
    }
    check_values(world);
    return "";
  });
  expect_all_zero(ranks.wait());
  ::unsetenv("LONGLORA_SECRET");
}

TEST(Communicator, ExchangesWhatNoBufferHolds) {
  ProcessRanks ranks(2);
  ranks.start_all([](Communicator& world) {
    const size_t bytes = 64 << 20;
    std::vector<std::byte> out(bytes, std::byte{1}), in(bytes, std::byte{2});
    double best = 1e9;
    for (int i = 0; i < 4; ++i) {
      const double begun = monotonic_seconds();
      world.exchange(1 - world.rank(), {out.data(), bytes}, {in.data(), bytes});
      best = std::min(best, monotonic_seconds() - begun);
    }
    require(in == out, "content");
    require(world.traffic().sent == 4 * bytes && world.traffic().received == 4 * bytes, "traffic");
    return fmt::format("{:.2f} GB/s in each direction", static_cast<double>(bytes) / best / 1e9);
  });
  const auto ends = ranks.wait();
  expect_all_zero(ends);
  RecordProperty("exchange", ends[0].message);
  printf("exchange of 64 MiB: %s\n", ends[0].message.c_str());
}

TEST(Communicator, SplitsAndSplitsAgain) {
  ProcessRanks ranks(8);
  ranks.start_all([](Communicator& world) {
    const int me = world.rank();
    const auto half = world.split(me / 4, -me);  // descending
    require(half->size() == 4 && half->rank() == 3 - me % 4, "order by key");
    const auto pair = half->split(half->rank() % 2, 0);
    require(pair->size() == 2, "part of a part");
    std::vector<int64_t> in_world = {me}, in_half = {me}, in_pair = {me};
    for (int i = 0; i < 3; ++i) {  // calls of several communicators in turn
      in_half = {me}, in_pair = {me}, in_world = {me};
      half->sum(in_half);
      world.sum(in_world);
      pair->sum(in_pair);
    }
    require(in_world[0] == 28, "world");
    require(in_half[0] == (me < 4 ? 6 : 22), "half");
    require(in_pair[0] == (me ^ 2) + me, "pair");
    check_pairs(*pair, 1000);
    check_collectives(*half, 1000);
    const auto alone = world.split(me, 0);
    require(alone->size() == 1, "alone");
    check_collectives(*alone, 10);
    check_values(*alone);
    return "";
  });
  expect_all_zero(ranks.wait());
}

TEST(Communicator, RefusesAnOverflowingSumOnAllRanks) {
  ProcessRanks ranks(2);
  ranks.start_all([](Communicator& world) {
    std::vector<int64_t> values = {std::numeric_limits<int64_t>::max(), 1};
    world.sum(values);
    return "";
  });
  for (const RankEnd& end : ranks.wait()) {
    EXPECT_EQ(end.code, 70);
    EXPECT_THAT(end.message, HasSubstr("value 0 of a sum over 2 ranks does not fit 64 bits"));
  }
}

TEST(Communicator, RefusesDeviceMemory) {
  ProcessRanks ranks(2);
  ranks.start_all([](Communicator& world) {
    std::byte b{};
    world.broadcast({&b, 1, Memory::device}, 0);
    return "";
  });
  for (const RankEnd& end : ranks.wait()) EXPECT_EQ(end.code, 70) << end.message;
}

struct Mismatch {
  const char* name;
  std::function<void(Communicator&)> first, second;  // of rank 0 and rank 1
  const char *one, *other;                           // which rank finds it first is chance
};

TEST(Communicator, NamesBothCallsOfAMismatch) {
  static std::byte data[64];
  const auto gather = [](Communicator& w) { w.all_gather({data, 8}, {data, 16}); };
  const auto broadcast = [](Communicator& w) { w.broadcast({data, 8}, 1); };
  const auto barrier = [](Communicator& w) { w.barrier({}); };
  const auto longer = [](Communicator& w) { w.all_gather({data, 16}, {data, 32}); };
  const auto exchange = [](Communicator& w) { w.exchange(1 - w.rank(), {data, 4}, {data + 8, 4}); };
  const auto receive = [](Communicator& w) { w.receive(1 - w.rank(), {data, 4}); };
  const auto extra = [=](Communicator& w) { barrier(w), barrier(w), gather(w); };
  const auto two = [=](Communicator& w) { barrier(w), gather(w), gather(w); };
  const auto in_part = [=](Communicator& w) { gather(*w.split(0, 0)); };
  const auto in_world = [=](Communicator& w) { w.split(0, 0), gather(w); };
  const Mismatch cases[] = {
      {"operation", gather, broadcast, "rank 1 called broadcast #1 where rank 0 called all_gather #1",
       "rank 0 called all_gather #1 where rank 1 called barrier #2"},
      {"barrier", barrier, gather, "rank 1 called all_gather #1 where rank 0 called barrier #1",
       "rank 0 called barrier #1 where rank 1 called all_gather #1"},
      {"bytes", gather, longer, "rank 1 called all_gather #1 with 16 bytes where rank 0 expects 8",
       "rank 0 called all_gather #1 with 8 bytes where rank 1 expects 16"},
      {"direction", exchange, receive, "rank 0 called exchange #1 where rank 1 called receive #1", ""},
      {"extra barrier", extra, two, "rank 1 called all_gather #2 where rank 0 called barrier #2",
       "rank 0 called barrier #2 where rank 1 called all_gather #2"},
      {"group", in_part, in_world, "of another group where rank", ""},
  };
  for (const Mismatch& c : cases) {
    ProcessRanks ranks(2);
    ranks.start_all([&](Communicator& world) {
      (world.rank() == 0 ? c.first : c.second)(world);
      world.barrier({});  // a rank whose own call went through is told here
      return "";
    });
    for (const RankEnd& end : ranks.wait()) {
      EXPECT_EQ(end.code, 76) << c.name << ": " << end.message;
      const bool is_named = end.message.find(c.one) == 0 || (*c.other != 0 && end.message.find(c.other) == 0) ||
                            (std::string_view(c.name) == "group" && end.message.find(c.one) != std::string::npos);
      EXPECT_TRUE(is_named) << c.name << ": " << end.message;
    }
  }
}

}  // namespace
}  // namespace longlora::dist
