#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include "longlora/checkpoint/commit.h"
#include "longlora/checkpoint/pending_folder.h"
#include "longlora/core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

TEST(OutputLock, LoserNamesTheOwner) {
  const TempDir dir;
  {
    const OutputLock owner(dir / "new/run", "run-7");
    EXPECT_EQ(kind_of([&] { OutputLock(dir / "new/run", "run-8"); }), ErrorKind::busy);
    const std::string message = error_of([&] { OutputLock(dir / "new/run", "run-8"); });
    EXPECT_THAT(message, HasSubstr("held by run run-7, pid " + std::to_string(getpid()) + " on "));
    EXPECT_THAT(message, HasSubstr("use another output_dir"));
    EXPECT_THAT(dir.read("new/run/.lock"), HasSubstr("\"boot_id\": \""));
  }
  EXPECT_EQ(error_of([&] { OutputLock(dir / "new/run", "run-9"); }), "");
  EXPECT_THAT(dir.read("new/run/.lock"), HasSubstr("run-9"));  // never unlinked
}

TEST(OutputLock, RefusesWhatIsNotAFolder) {
  const TempDir dir;
  dir.write("file", "x");
  EXPECT_NE(error_of([&] { OutputLock(dir / "file", "r"); }), "");
  EXPECT_EQ(dir.read("file"), "x");
}

TEST(PendingFolder, AppearsOnlyWhenPublished) {
  const TempDir dir;
  const fs::path target = dir / "deep/model";
  PendingFolder pending(target / "");  // a trailing slash is the same target
  std::ofstream(pending.path() / "a") << "x";
  EXPECT_FALSE(fs::exists(target));
  pending.sync();
  pending.publish();
  EXPECT_TRUE(fs::exists(target / "a"));
  EXPECT_FALSE(fs::exists(pending.path()));
}

TEST(PendingFolder, ExistingTargetIsBusy) {
  const TempDir dir;
  dir.write("model/config.json", "{}");
  EXPECT_EQ(error_of([&] { PendingFolder(dir / "model"); }),
            "the target exists already (" + (dir / "model").string() + "); delete it or choose another --to");
  EXPECT_EQ(kind_of([&] { PendingFolder(dir / "model"); }), ErrorKind::busy);
}

TEST(PendingFolder, TargetThatAppearsMeanwhileIsNotReplaced) {
  const TempDir dir;
  PendingFolder pending(dir / "model");
  dir.write("model/other", "x");
  EXPECT_EQ(kind_of([&] { pending.publish(); }), ErrorKind::busy);
  EXPECT_EQ(dir.read("model/other"), "x");
}

TEST(PendingFolder, RemovesLeftoversOfTheDeadOnly) {
  const TempDir dir;
  dir.write("model.tmp-dead/half", "x");
  dir.write("model.tmp-alive/half", "x");
  dir.write("other.tmp-dead/half", "x");
  const int alive = open((dir / "model.tmp-alive").c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(alive, LOCK_EX), 0);
  const PendingFolder pending(dir / "model");
  EXPECT_FALSE(fs::exists(dir / "model.tmp-dead"));
  EXPECT_TRUE(fs::exists(dir / "model.tmp-alive/half"));
  EXPECT_TRUE(fs::exists(dir / "other.tmp-dead/half"));
  close(alive);
}

}  // namespace
}  // namespace longlora
