// The NCCL transport and its watchdog over a made-up library: no GPU, no NCCL.
#include "dist/nccl_transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "dist/nccl_agreement.h"
#include "longlora/core/clock.h"
#include "support/error_of.h"
#include "support/fake_nccl.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"

namespace longlora::dist {
namespace {

struct Ends {
  std::atomic<int> count = 0;
};
NcclSurroundings surroundings(Ends& ends) {
  return {
      .now = monotonic_seconds, .end_process = [&](const Verdict&) { ++ends.count; }, .times = {.poll_seconds = 0.002, .end_seconds = 0.1}};
}

using Body = std::function<void(Communicator&, test::FakeNccl&)>;
std::vector<std::optional<Error>> with_ranks(int size, const NcclOptions& options, const Body& body, Ends& ends,
                                             const std::function<void(test::FakeNccl&, int rank)>& change = {},
                                             test::FakeNcclWorld* given = nullptr) {
  test::FakeNcclWorld own;
  test::FakeNcclWorld& fakes = given ? *given : own;
  auto world = std::make_shared<test::ThreadWorld>(size);
  std::vector<std::optional<Error>> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      errors[static_cast<size_t>(rank)] = thrown_by([&] {
        test::FakeNccl* fake = nullptr;
        const auto open = [&] {
          auto made = std::make_unique<test::FakeNccl>(fakes, rank);
          if (change) change(*made, rank);
          return fake = made.get(), std::unique_ptr<CollectiveLibrary>(std::move(made));
        };
        const auto nccl = connect_nccl(std::make_unique<test::ThreadCommunicator>(world, rank), open, options, surroundings(ends));
        body(*nccl, *fake);
      });
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}
Buffer device(std::vector<std::byte>& v) { return {v.data(), v.size(), Memory::device}; }
ConstBuffer out(const std::vector<std::byte>& v) { return {v.data(), v.size(), Memory::device}; }

TEST(NcclTransport, MovesBytesOnWorldAndParts) {
  Ends ends;
  test::FakeNcclWorld fakes;
  const auto errors = with_ranks(
      4, {},
      [](Communicator& world, test::FakeNccl& fake) {
        const auto mine = static_cast<std::byte>(world.rank() + 1);
        std::vector<std::byte> own(5, mine), all(20), other(5), root(3, mine);
        world.all_gather(out(own), device(all));
        world.exchange(world.rank() ^ 1, out(own), device(other));
        world.broadcast(device(root), 2);
        fake.wait_for_all();
        for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<std::byte>(i / 5 + 1));
        EXPECT_EQ(other, std::vector<std::byte>(5, static_cast<std::byte>((world.rank() ^ 1) + 1)));
        EXPECT_EQ(root, std::vector<std::byte>(3, std::byte{3}));
        const auto part = world.split(world.rank() % 2, -world.rank());
        std::vector<std::byte> two(10);
        part->all_gather(out(own), device(two));
        fake.wait_for_all();
        EXPECT_EQ(two.front(), static_cast<std::byte>(world.rank() % 2 + 3));
        std::vector<int64_t> sum = {1};
        world.sum(sum);
        EXPECT_EQ(sum[0], 4);
      },
      ends, {}, &fakes);
  for (const auto& error : errors) EXPECT_FALSE(error) << error->what();
  EXPECT_EQ(fakes.live, 0);  // every communicator was destroyed
  EXPECT_EQ(ends.count, 0);
}

TEST(NcclTransport, RefusesOneGpuForTwoRanksOnAllRanks) {
  test::run_ranks(3, [](Communicator& control) {
    RankDevice mine;
    mine.device[0] = control.rank() == 2 ? 1 : static_cast<uint8_t>(control.rank());
    const auto error = thrown_by([&] { agree_devices(control, mine); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::config);
    EXPECT_EQ(error->what_happened, "ranks 1 and 2 have one GPU");
    EXPECT_EQ(error->details.at(2), "rank 2: local rank 2, GPU-01000000-0000-0000-0000-000000000000");
  });
}

TEST(NcclTransport, AnotherVersionIsRefusedOnAllRanks) {
  Ends ends;
  for (const auto& error : with_ranks(
           2, {}, [](auto&, auto&) {}, ends,
           [](test::FakeNccl&f, int rank) {
             if (rank == 1) f.version = 22703;
           })) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::config);
    EXPECT_EQ(error->what_happened, "NCCL 2.27.3 was loaded, 2.28.9 was compiled against");
  }
}

TEST(NcclTransport, ADeadlineEndsTheProcessOfAStuckThread) {
  Ends ends;
  const TempDir logs;
  const auto errors = with_ranks(
      2, {.log_folder = logs.path(), .collective_seconds = 0.05},
      [&](Communicator& world, test::FakeNccl&) {
        world.set_place("step", 17);
        std::vector<std::byte> own(5), all(10);
        if (world.rank() == 0) world.all_gather(out(own), device(all));
        std::this_thread::sleep_for(std::chrono::milliseconds(400));  // stuck
        world.all_gather(out(own), device(all));
      },
      ends);
  EXPECT_GE(ends.count, 1);
  ASSERT_TRUE(errors[0]);
  EXPECT_EQ(errors[0]->kind, ErrorKind::peer);
  const std::string line = "rank 0, step 17, all_gather, sequence 1, 5 bytes, 0.1 seconds waited: the deadline of 0.05 s has passed";
  EXPECT_EQ(errors[0]->what_happened, line);
  EXPECT_NE(logs.read("flight_rank_0.jsonl").find(line), std::string::npos);
}

TEST(NcclTransport, ALostControlConnectionEndsTheWait) {
  Ends ends;
  std::atomic<bool> lost = false;
  NcclOptions options;
  options.control_lost = [&]() -> std::optional<std::string> {
    if (lost) return "rank 1 was lost";
    return std::nullopt;
  };
  const auto errors = with_ranks(
      1, options,
      [&](Communicator& world, test::FakeNccl&) {
        lost = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        std::vector<std::byte> own(5), all(5);
        world.all_gather(out(own), device(all));
      },
      ends);
  ASSERT_TRUE(errors[0]);
  EXPECT_NE(errors[0]->what_happened.find("rank 1 was lost"), std::string::npos);
}

TEST(NcclResult, MapsEveryNumber) {
  const std::vector<ErrorKind> kinds = {ErrorKind::internal, ErrorKind::peer, ErrorKind::peer,     ErrorKind::internal, ErrorKind::internal,
                                        ErrorKind::config,   ErrorKind::peer, ErrorKind::internal, ErrorKind::internal};
  for (int n = 0; n < 9; ++n) EXPECT_EQ(nccl_result(n).kind, kinds[static_cast<size_t>(n)]) << n;
  EXPECT_EQ(nccl_result(-5).name, "an unknown result");
  EXPECT_EQ(nccl_version_text(22809), "2.28.9");
}

TEST(NcclAgreement, ChoosesTheInterface) {
  const std::vector<std::pair<std::string, std::string>> have = {{"lo", "127.0.0.1"}, {"eth0", "10.0.0.5"}};
  EXPECT_EQ(socket_interface("", true, have), "=lo");
  EXPECT_EQ(socket_interface("", false, have), std::nullopt);
  EXPECT_EQ(socket_interface("10.0.0.5", true, have), "=eth0");
  EXPECT_EQ(socket_interface("any", true, have), std::nullopt);
}

TEST(Watchdog, AsksNoMarkBehindAPendingOneOfItsStream) {
  FlightRecorder records;
  WatchBook book(records);
  int a = 0, b = 0;
  for (int i = 0; i < 4; ++i) book.enqueued(book.enter({.entered_at = 0}, 10), reinterpret_cast<void*>(i + 1), i % 2 ? &a : &b, 0);
  std::vector<size_t> asked;
  const auto polled = book.poll(
      [&](void* mark, std::string&) {
        asked.push_back(reinterpret_cast<size_t>(mark));
        return mark == reinterpret_cast<void*>(1) ? Progress::pending : Progress::done;
      },
      1);
  EXPECT_EQ(asked, (std::vector<size_t>{1, 2, 4}));
  EXPECT_EQ(polled.done.size(), 2u);
  EXPECT_FALSE(book.overdue(9.9));
  EXPECT_TRUE(book.overdue(10));
}

TEST(FlightRecorder, KeepsTheLast256) {
  FlightRecorder records;
  for (int i = 0; i < 300; ++i) records.begin({.sequence = i});
  EXPECT_EQ(records.records().size(), 256u);
  EXPECT_EQ(records.records().front().sequence, 44);
  const TempDir folder;
  ASSERT_TRUE(records.write(folder / "logs", 3, "why", 1));
  EXPECT_NE(folder.read("logs/flight_rank_3.jsonl").find("\"sequence\": 299"), std::string::npos);
}

}  // namespace
}  // namespace longlora::dist
