// What of the host a run may use, from made-up files of the kernel.
#include <gtest/gtest.h>

#include <fstream>

#include "longlora/core/host_memory.h"
#include "longlora/plan/memory_plan.h"

namespace longlora {
namespace {

constexpr int64_t kGibibyte = int64_t{1} << 30;

class HostBudget : public testing::Test {
 protected:
  HostBudget() : root_(std::filesystem::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    write("proc/meminfo", "MemTotal:  419430400 kB\nMemAvailable:  314572800 kB\n");  // 300 GiB
  }
  ~HostBudget() override { std::filesystem::remove_all(root_); }

  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  void group(const std::string& path, int64_t limit, int64_t used, int64_t inactive = 0, int64_t active = 0) const {
    const std::string folder = "sys/fs/cgroup" + path + "/";
    write(folder + "memory.max", limit < 0 ? "max\n" : std::to_string(limit * kGibibyte) + "\n");
    write(folder + "memory.current", std::to_string(used * kGibibyte) + "\n");
    write(folder + "memory.stat", "anon 1\nfile 99\ninactive_file " + std::to_string(inactive * kGibibyte) + "\nactive_file " +
                                      std::to_string(active * kGibibyte) + "\n");
  }
  int64_t gib() const { return default_host_budget(root_) / kGibibyte; }
  int64_t limit_gib() const { return host_memory_limit(root_) / kGibibyte; }

 private:
  std::filesystem::path root_;
};

TEST_F(HostBudget, IsWhatIsAvailableLessAReserve) {
  EXPECT_EQ(gib(), 292);
  write("proc/meminfo", "MemAvailable:  8388608 kB\n");
  EXPECT_EQ(gib(), 4);  // of little, half
}

TEST_F(HostBudget, TheLimitIsTheMachinesOrTheTightestGroups) {
  EXPECT_EQ(limit_gib(), 400);
  write("proc/self/cgroup", "0::/slice/job\n");
  group("/slice", 64, 60);
  group("/slice/job", -1, 60);
  EXPECT_EQ(limit_gib(), 64);
  write("proc/meminfo", "");
  EXPECT_EQ(limit_gib(), 64);
  group("/slice", -1, 60);
  EXPECT_EQ(limit_gib(), 0);  // unknown
}

TEST_F(HostBudget, FilePagesOfTheGroupAreRoom) {
  write("proc/self/cgroup", "0::/\n");
  group("", 64, 60);
  EXPECT_EQ(gib(), 2);
  group("", 64, 60, 30, 10);
  EXPECT_EQ(gib(), 64 - 20 - 8);
}

TEST_F(HostBudget, TheGroupsOwnFolderAndThoseAboveItCount) {
  write("proc/self/cgroup", "0::/slice/job\n");
  group("", -1, 100);
  group("/slice", 100, 10);
  group("/slice/job", 50, 10, 5);
  EXPECT_EQ(gib(), 50 - 5 - 8);
  group("/slice", 30, 10);
  EXPECT_EQ(gib(), 30 - 10 - 8);
  group("/slice/job", -1, 10);
  EXPECT_EQ(gib(), 30 - 10 - 8);
}

TEST_F(HostBudget, AGroupThatIsNotVisibleLeavesTheRootsFiles) {
  write("proc/self/cgroup", "0::/kubepods/pod1\n");
  group("", 40, 4);
  EXPECT_EQ(gib(), 40 - 4 - 8);
}

TEST_F(HostBudget, AFullGroupHasNoRoom) {
  write("proc/self/cgroup", "0::/\n");
  group("", 64, 65);
  EXPECT_EQ(gib(), 0);
}

TEST_F(HostBudget, TheFirstVersionOfControlGroupsToo) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n");
  const std::string folder = "sys/fs/cgroup/memory/docker/x/";
  write(folder + "memory.limit_in_bytes", std::to_string(64 * kGibibyte));
  write(folder + "memory.usage_in_bytes", std::to_string(32 * kGibibyte));
  write(folder + "memory.stat", "inactive_file 7\ntotal_inactive_file " + std::to_string(8 * kGibibyte) + "\ntotal_active_file 0\n");
  EXPECT_EQ(gib(), 64 - 24 - 8);
}

TEST_F(HostBudget, OfThisMachineIsBelowItsMemory) {
  EXPECT_GT(default_host_budget(), 0);
  EXPECT_LT(default_host_budget(), int64_t{1} << 44);
}

}  // namespace
}  // namespace longlora
