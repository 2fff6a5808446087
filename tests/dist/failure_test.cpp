#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "support/process_ranks.h"

namespace longlora::dist {
namespace {

using test::ProcessRanks;
using test::RankEnd;
using testing::AllOf;
using testing::HasSubstr;

struct Operation {
  const char* name;
  std::function<void(Communicator&)> call;  // of a rank that waits for rank 2
};

std::vector<Operation> operations() {
  static std::byte data[64];
  static std::vector<int64_t> values(1);
  return {
      {"exchange",
       [](Communicator& w) {
         w.exchange(2, {data, 4}, {data + 8, 4});
       }},
      {"receive",
       [](Communicator& w) {
         w.receive(2, {data, 4});
       }},
      {"send",
       [](Communicator& w) {
         static std::vector<std::byte> big(32 << 20);
         w.send(2, {big.data(), big.size()});
       }},
      {"all_gather",
       [](Communicator& w) {
         w.all_gather({data, 8}, {data, 24});
       }},
      {"broadcast",
       [](Communicator& w) {
         w.broadcast({data, 8}, 2);
       }},
      {"sum", [](Communicator& w) { w.sum(values); }},
      {"max", [](Communicator& w) { w.max(values); }},
      {"barrier", [](Communicator& w) { w.barrier({}); }},
      {"split", [](Communicator& w) { w.split(0, 0); }},
  };
}

/// Rank 2 says when it is there, and then is in no call until it is killed or stopped.
std::string wait_without_call(int ready) {
  [[maybe_unused]] const ssize_t written = ::write(ready, "x", 1);
  for (;;) ::pause();
}

struct ReadyPipe {
  ReadyPipe() { EXPECT_EQ(::pipe(ends), 0); }
  ~ReadyPipe() { ::close(ends[0]), ::close(ends[1]); }
  void wait() const {
    char c = 0;
    EXPECT_EQ(::read(ends[0], &c, 1), 1);
  }
  int ends[2];
};

class WaitedFor : public testing::TestWithParam<bool> {};  // with data connections made before, and without

TEST_P(WaitedFor, AKilledRankEndsEveryOperation) {
  for (const Operation& operation : operations()) {
    ProcessRanks ranks(3);
    const ReadyPipe ready;
    ranks.start_all([&](Communicator& world) -> std::string {
      world.set_place("step", 12);
      if (GetParam()) world.barrier({});
      if (world.rank() == 2) return wait_without_call(ready.ends[1]);
      operation.call(world);
      return "went through";
    });
    ready.wait();
    ::usleep(100'000);  // the others are in their call
    ::kill(ranks.pid(2), SIGKILL);
    const double killed = monotonic_seconds();
    const auto ends = ranks.wait(10);
    EXPECT_LT(monotonic_seconds() - killed, 5) << operation.name;
    for (const int rank : {0, 1}) {
      const RankEnd& end = ends[static_cast<size_t>(rank)];
      EXPECT_EQ(end.code, 76) << operation.name << ": " << end.message;
      EXPECT_THAT(end.message, AllOf(HasSubstr("rank 2 is lost"), HasSubstr(std::string(operation.name) + " #"), HasSubstr("step 12")));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Connections, WaitedFor, testing::Bool());

TEST(Failure, AKilledRankZeroEndsTheOthers) {
  ProcessRanks ranks(3);
  const ReadyPipe ready;
  ranks.start_all([&](Communicator& world) -> std::string {
    if (world.rank() == 0) return wait_without_call(ready.ends[1]);
    world.barrier({});
    return "";
  });
  ready.wait();
  ::usleep(50'000);
  ::kill(ranks.pid(0), SIGKILL);
  const auto ends = ranks.wait(10);
  for (const size_t rank : {1, 2}) {
    EXPECT_EQ(ends[rank].code, 76);
    EXPECT_THAT(ends[rank].message, HasSubstr("rank 0 is lost"));
  }
}

TEST(Failure, AStoppedRankIsNamedAtTheDeadline) {
  for (const int stopped : {0, 1, 3}) {
    ProcessRanks ranks(4);
    ranks.change([](test::RankSetup& setup) {
      setup.options.collective_seconds = 2;
      setup.options.log_folder = ::getenv("XDG_RUNTIME_DIR");
    });
    const ReadyPipe ready;
    ranks.start_all([&](Communicator& world) -> std::string {
      world.set_place("step", 12);
      world.barrier({});
      if (world.rank() == stopped) return wait_without_call(ready.ends[1]);
      std::vector<std::byte> data(8 << 20);
      world.broadcast({data.data(), data.size()}, 0);  // a tree: not every rank waits for the stopped one itself
      world.barrier({});
      return "";
    });
    ready.wait();
    ::kill(ranks.pid(static_cast<size_t>(stopped)), SIGSTOP);
    const double begun = monotonic_seconds();
    std::vector<RankEnd> ends;
    std::thread killer([&] {
      ::usleep(4'500'000);
      ::kill(ranks.pid(static_cast<size_t>(stopped)), SIGKILL);
    });
    ends = ranks.wait(10);
    killer.join();
    for (int rank = 0; rank < 4; ++rank) {
      if (rank == stopped) continue;
      const RankEnd& end = ends[static_cast<size_t>(rank)];
      EXPECT_EQ(end.code, 76) << rank;
      EXPECT_LT(end.seconds, 4.5) << rank << ": " << end.message;
      EXPECT_THAT(end.message, HasSubstr("rank " + std::to_string(stopped) + " does not answer")) << rank;
      const std::string flight = ranks.folder().read("flight_rank_" + std::to_string(rank) + ".jsonl");
      EXPECT_THAT(flight, AllOf(HasSubstr("\"sequence\": 1, \"operation\": \"barrier\""), HasSubstr("\"state\": \"entered\""),
                                HasSubstr("does not answer")));
    }
    EXPECT_GT(monotonic_seconds() - begun, 2);
  }
}

TEST(Failure, ARankThatDoesNotComeIsNamed) {
  ProcessRanks ranks(3);
  ranks.change([](test::RankSetup& setup) { setup.options.collective_seconds = 1; });
  ranks.start_all([](Communicator& world) -> std::string {
    world.set_place("step", 40);
    if (world.rank() == 1) ::sleep(4);
    world.barrier({});
    return "";
  });
  for (const RankEnd& end : ranks.wait(10)) {
    EXPECT_EQ(end.code, 76);
    EXPECT_THAT(end.message, AllOf(HasSubstr("rank 1 did not come in time (step 40)"), HasSubstr("barrier #1")));
  }
}

TEST(Failure, OutsideOfStepsARankMayTakeItsTime) {
  ProcessRanks ranks(2);
  ranks.change([](test::RankSetup& setup) { setup.options.collective_seconds = 1; });
  ranks.start_all([](Communicator& world) -> std::string {
    world.set_place("data", 0);
    if (world.rank() == 0) ::sleep(3);
    world.barrier({});
    return "";
  });
  for (const RankEnd& end : ranks.wait(10)) EXPECT_EQ(end.code, 0) << end.message;
}

TEST(Failure, AbortReachesAllRanksWithItsReason) {
  ProcessRanks ranks(3);
  ranks.start_all([](Communicator& world) -> std::string {
    if (world.rank() == 2) world.abort("out of patience");
    world.barrier({});
    return "";
  });
  for (const RankEnd& end : ranks.wait(10)) {
    EXPECT_EQ(end.code, 76);
    EXPECT_THAT(end.message, HasSubstr("rank 2 ended the run: out of patience"));
  }
}

TEST(Failure, AnErrorOfOneRankDoesNotKeepTheOthersWaiting) {
  ProcessRanks ranks(3);
  ranks.start_all([](Communicator& world) -> std::string {
    if (world.rank() == 1) fail(ErrorKind::data, "bad record", "file", "mend it");
    world.barrier({});
    return "";
  });
  const auto ends = ranks.wait(10);
  EXPECT_EQ(ends[1].code, 65);
  for (const size_t rank : {0, 2}) EXPECT_THAT(ends[rank].message, HasSubstr("rank 1 has ended and takes no part in barrier #1"));
}

TEST(Failure, ARankThatHasEndedIsNoLostRank) {
  for (const int early : {0, 1, 2}) {
    ProcessRanks ranks(3);
    ranks.start_all([&](Communicator& world) -> std::string {
      world.barrier({});
      const int peer = 3 - early - world.rank();
      if (world.rank() == early) return "";
      ::usleep(300'000);
      std::vector<std::byte> out(1 << 20), in(1 << 20);
      world.exchange(peer, {out.data(), out.size()}, {in.data(), in.size()});  // the others go on
      world.barrier({});                                                       // until they need it
      return "";
    });
    const auto ends = ranks.wait(20);
    for (int rank = 0; rank < 3; ++rank) {
      const RankEnd& end = ends[static_cast<size_t>(rank)];
      EXPECT_EQ(end.code, rank == early ? 0 : 76) << end.message;
      if (rank == early) continue;
      EXPECT_THAT(end.message, HasSubstr("rank " + std::to_string(early) + " has ended and takes no part in barrier #2"));
    }
  }
}

}  // namespace
}  // namespace longlora::dist
