// NCCL itself, without a GPU: version, unique id, and what a start without a driver says. Where a GPU is, the last test is skipped.
#include <gtest/gtest.h>

#include <set>

#include "dist/nccl_result.h"
#include "dist/nccl_transport.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"

namespace longlora::dist {
namespace {

bool has_gpu() { return !thrown_by([] { open_nccl(0)->device_uuid(); }); }

TEST(Nccl, LoadsTheVersionItWasCompiledAgainst) {
  const auto library = open_nccl(0);
  EXPECT_EQ(library->header_version(), library->library_version());
  EXPECT_EQ(nccl_version(), nccl_version_text(library->header_version()));
}

TEST(Nccl, MakesUniqueIdsWithoutADriver) {
  std::set<CollectiveLibrary::UniqueId> ids;
  for (int i = 0; i < 3; ++i) {
    CollectiveLibrary::UniqueId id{};
    ASSERT_EQ(open_nccl(0)->make_id(id), kNcclSuccess);
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 3u);
}

TEST(Nccl, AllRanksHaveRankZerosId) {
  test::run_ranks(3, [](Communicator& control) {
    CollectiveLibrary::UniqueId id{}, mine{};
    if (control.rank() == 0) ASSERT_EQ(open_nccl(0)->make_id(id), kNcclSuccess);
    control.broadcast({id.data(), id.size(), Memory::host}, 0);
    EXPECT_NE(id, mine);
  });
}

TEST(Nccl, WithoutADriverAllRanksEndWith76) {
  if (has_gpu()) GTEST_SKIP() << "a GPU is here";
  auto world = std::make_shared<test::ThreadWorld>(2);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      const auto error = thrown_by([&] { make_nccl(std::make_unique<test::ThreadCommunicator>(world, rank), rank, {}); });
      ASSERT_TRUE(error);
      EXPECT_EQ(error->kind, ErrorKind::peer);
      EXPECT_NE(error->what_happened.find("cudaGetDeviceProperties: "), std::string::npos) << error->what();
    });
  for (std::thread& rank : ranks) rank.join();
}

TEST(Nccl, AStartThatFailsInsideNcclIsMapped) {
  if (has_gpu()) GTEST_SKIP() << "a GPU is here";
  EXPECT_EQ(kind_of([] {
              const auto library = open_nccl(0);
              CollectiveLibrary::UniqueId id{};
              CollectiveLibrary::Handle handle = nullptr;
              if (const int made = library->make_id(id); made != kNcclSuccess) throw nccl_error(made, "ncclGetUniqueId", "test", "");
              const int result = library->init(handle, 1, id, 0);
              throw nccl_error(result, "ncclCommInitRankConfig", "test", library->last_error(nullptr));
            }),
            ErrorKind::peer);
}

}  // namespace
}  // namespace longlora::dist
