#include "longlora/checkpoint/commit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ManifestFile write_file(const fs::path& folder, const std::string& name, const std::string& text) {
  OutputFile file = OutputFile::create(folder / name);
  file.write_all(text);
  file.sync();
  file.close();
  return {name, text.size(), sha256(text)};
}

fs::path commit(CheckpointFolder& folder, int64_t step, const std::string& chain = "c0ffee") {
  return folder.commit(step, chain, [&](const fs::path& pending) {
    return std::vector<ManifestFile>{write_file(pending, "state.json", "state " + std::to_string(step))};
  });
}

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(folder)) result.push_back(entry.path().filename());
  std::sort(result.begin(), result.end());
  return result;
}

TEST(Manifest, PrintsAndParsesToTheSame) {
  const Manifest manifest{
      .step = 12, .chain = "ab\"cd", .files = {{"a.safetensors", 1ull << 40, sha256("a")}, {"state.json", 0, sha256("")}}};
  const std::string text = print_manifest(manifest);
  const Manifest parsed = parse_manifest(text, "M");
  EXPECT_EQ(parsed.step, 12);
  EXPECT_EQ(parsed.chain, "ab\"cd");
  ASSERT_EQ(parsed.files.size(), 2u);
  EXPECT_EQ(parsed.files[0].bytes, 1ull << 40);
  EXPECT_EQ(parsed.files[1].digest, sha256(""));
  EXPECT_EQ(print_manifest(parsed), text);
}

/// The text with its own digest made right again, as a foreign writer would.
std::string sealed(std::string text) {
  const size_t begin = text.size() - 64 - 4;
  text.replace(begin, 64, 64, '0');
  return text.replace(begin, 64, to_hex(sha256(text)));
}

TEST(Manifest, RefusesWhatIsNotItsOneText) {
  const std::string good = print_manifest({.step = 3, .chain = "c", .files = {{"state.json", 5, sha256("x")}}});
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return sealed(text);
  };
  EXPECT_EQ(sealed(good), good);
  EXPECT_THAT(error_of([&] { parse_manifest("{}", "M"); }), HasSubstr("does not end with its own SHA-256"));
  const struct {
    std::string from, to, message;
  } cases[] = {
      {"\"step\": 3", "\"step\": -3", "'step' is not an unsigned integer"},
      {"\"step\": 3", "\"step\": 3.0", "'step' is not an unsigned integer"},
      {"\"step\": 3", "\"step\":  3", "another spelling"},
      {"\"step\": 3", "\"step\": 3, \"more\": 1", "unknown keys"},
      {"state.json", "../x", "not one path component"},
      {"state.json", "MANIFEST.json", "not one path component"},
      {"{\"name\"", "{\"name\": \"state.json\", \"bytes\": 5, \"sha256\": \"" + to_hex(sha256("x")) + "\"},\n    {\"name\"",
       "listed twice"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(error_of([&] { parse_manifest(changed(c.from, c.to), "M"); }), HasSubstr(c.message)) << c.to;
  }
  const std::string newer = changed("\"format\": 1", "\"format\": 2");
  EXPECT_EQ(kind_of([&] { parse_manifest(newer, "M"); }), ErrorKind::mismatch);
  EXPECT_EQ(error_of([&] { parse_manifest(newer, "M"); }),
            "checkpoint format 2, this program reads format 1 (M); resume with the program version that wrote it");
}

TEST(CheckpointFolder, CommitIsVisibleCompleteAndFound) {
  const TempDir dir;
  CheckpointFolder folder(dir / "a/b/checkpoints");
  EXPECT_FALSE(folder.choose().has_value());
  EXPECT_EQ(commit(folder, 100).filename(), "step-0000000100");
  commit(folder, 20);
  EXPECT_THAT(folder.steps(), ElementsAre(20, 100));
  EXPECT_THAT(names(dir / "a/b/checkpoints/step-0000000100"), ElementsAre("MANIFEST.json", "state.json"));
  const auto found = folder.choose();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->step, 100);
  EXPECT_EQ(found->manifest.chain, "c0ffee");
}

TEST(CheckpointFolder, SameStepIsSavedOnceOrBusy) {
  const TempDir dir;
  CheckpointFolder folder(dir.path());
  commit(folder, 1, "aa");
  EXPECT_EQ(commit(folder, 1, "aa").filename(), "step-0000000001");
  EXPECT_EQ(kind_of([&] { commit(folder, 1, "bb"); }), ErrorKind::busy);
  EXPECT_THAT(names(dir.path()), ElementsAre("step-0000000001"));
}

TEST(CheckpointFolder, FailureLeavesNothing) {
  const TempDir dir;
  CheckpointFolder folder(dir.path());
  const auto failing = [&] {
    folder.commit(2, "c", [](const fs::path& pending) -> std::vector<ManifestFile> {
      write_file(pending, "half", "x");
      fail(ErrorKind::io, "no space", "here", "free some");
    });
  };
  EXPECT_EQ(error_of(failing), "no space (here); free some");
  EXPECT_EQ(kind_of([&] {
              folder.commit(2, "c", [](const fs::path& p) {
                write_file(p, "unlisted", "x");
                return std::vector<ManifestFile>{};
              });
            }),
            ErrorKind::data);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(CheckpointFolder, RotationKeepsTheNewestAndNeverTheLastVerified) {
  const TempDir dir;
  {
    CheckpointFolder earlier(dir.path());
    for (const int64_t step : {1, 2, 3}) commit(earlier, step);
  }
  CheckpointFolder folder(dir.path());
  folder.rotate(1);  // nothing verified by this object yet
  EXPECT_THAT(folder.steps(), ElementsAre(1, 2, 3));
  ASSERT_TRUE(folder.choose());
  commit(folder, 4);
  folder.rotate(3);  // two verified: too few to delete anything
  EXPECT_THAT(folder.steps(), ElementsAre(1, 2, 3, 4));
  folder.rotate(2);
  EXPECT_THAT(folder.steps(), ElementsAre(3, 4));
  folder.rotate(0);
  EXPECT_THAT(folder.steps(), ElementsAre(4));
  EXPECT_THAT(names(dir.path()), ElementsAre("step-0000000004"));
}

TEST(CheckpointFolder, StartRemovesLeftoversOfOthersOnly) {
  const TempDir dir;
  dir.write("tmp-0000000001-0123456789abcdef/half", "x");
  dir.write("trash-0000000001-0123456789abcdef/sub/old", "x");
  dir.write("bad-0000000001-0123456789abcdef/kept", "x");
  dir.write("tmp-0000000002-" + process_nonce() + "/own", "x");
  dir.write("notes.txt", "x");
  const CheckpointFolder folder(dir.path());
  EXPECT_THAT(names(dir.path()), ElementsAre("bad-0000000001-0123456789abcdef", "notes.txt", "tmp-0000000002-" + process_nonce()));
}

TEST(CheckpointFolder, DamagedIsKeptAsBadOnceALowerOneVerified) {
  const TempDir dir;
  CheckpointFolder folder(dir.path());
  commit(folder, 1);
  commit(folder, 2);
  dir.write("step-0000000002/state.json", "stats 2");
  EXPECT_EQ(CheckpointFolder::latest(dir.path())->step, 1);
  EXPECT_THAT(names(dir.path()), ElementsAre("step-0000000001", "step-0000000002"));  // reading changes nothing
  EXPECT_EQ(folder.choose()->step, 1);
  EXPECT_THAT(names(dir.path()), ElementsAre("bad-0000000002-" + process_nonce(), "step-0000000001"));
}

TEST(CheckpointFolder, NoneCompleteIsItsOwnCodeAndTouchesNothing) {
  const TempDir dir;
  CheckpointFolder folder(dir.path());
  commit(folder, 1);
  commit(folder, 2);
  dir.write("step-0000000001/state.json", "");
  fs::remove(dir / "step-0000000002/MANIFEST.json");
  EXPECT_EQ(kind_of([&] { folder.choose(); }), ErrorKind::no_checkpoint);
  EXPECT_EQ(error_of([&] { folder.choose(); }),
            "2 checkpoints exist and none is complete (" + dir.path().string() +
                "); restore one from a copy, or start anew with another output_dir; nothing was deleted");
  EXPECT_THAT(details_of([&] { folder.choose(); }),
              ElementsAre(HasSubstr("a file is missing"), HasSubstr("the file has 0 bytes, the manifest says 7")));
  EXPECT_THAT(folder.steps(), ElementsAre(1, 2));
}

TEST(CheckpointFolder, VerifyNamesFileAndReason) {
  const TempDir dir;
  CheckpointFolder folder(dir.path());
  const fs::path step = commit(folder, 1);
  EXPECT_EQ(CheckpointFolder::verify(step / "").step, 1);  // trailing slash
  fs::copy(step, dir / "moved");
  EXPECT_EQ(CheckpointFolder::verify(dir / "moved").step, 1);  // any name but another step's
  fs::copy(step, dir / "step-0000000009");
  EXPECT_THAT(error_of([&] { CheckpointFolder::verify(dir / "step-0000000009"); }),
              HasSubstr("the manifest is of step 1, the folder of step 9"));
  dir.write("step-0000000001/extra", "");
  EXPECT_EQ(error_of([&] { CheckpointFolder::verify(step); }), "damaged checkpoint: a file is not in the manifest (" +
                                                                   (step / "extra").string() +
                                                                   "); use an older checkpoint (--resume auto does)");
  fs::remove(step / "extra");
  fs::remove(step / "state.json");
  fs::create_symlink(dir / "moved/state.json", step / "state.json");  // out of the folder
  EXPECT_EQ(kind_of([&] { CheckpointFolder::verify(step); }), ErrorKind::data);
}

}  // namespace
}  // namespace longlora
