// Inputs are bounded and cannot block; outputs are complete or absent.

#include "longlora/core/files.h"

#include <gtest/gtest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <future>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

size_t files_in(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(InputFile, ReadsAnyPartOfARegularFile) {
  const TempDir dir;
  const InputFile file(dir.write("a", "0123456789"));
  EXPECT_EQ(file.size(), 10u);
  EXPECT_EQ(file.read_text(3, 4), "3456");
  EXPECT_EQ(file.read_text(10, 0), "");
  file.check_unchanged();
  InputFile moved(InputFile(dir / "a"));
  EXPECT_EQ(moved.read_text(0, 2), "01");
  moved = InputFile(dir.write("b", "xy"));
  EXPECT_EQ(moved.size(), 2u);
  EXPECT_EQ(moved.read_text(0, 2), "xy");
}

TEST(InputFile, WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (dir / "socket").c_str(), sizeof address.sun_path - 1);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(error_of([&] { InputFile file(dir / "pipe"); }),
            "found a named pipe, expected a regular file (" + (dir / "pipe").string() + "); give the path of a file");
  EXPECT_EQ(error_of([&] { InputFile file(dir.path()); }),
            "found a folder, expected a regular file (" + dir.path().string() + "); give the path of a file");
  EXPECT_EQ(kind_of([&] { InputFile file(dir / "socket"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([&] { InputFile file("/dev/null"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([&] { InputFile file(dir / "absent"); }), ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { InputFile file(dir.write("file", "") / "below"); }), ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { InputFile file(dir / std::string(300, 'n')); }), ErrorKind::missing);
  fs::create_symlink("loop", dir / "loop");
  EXPECT_EQ(kind_of([&] { InputFile file(dir / "loop"); }), ErrorKind::data);
  ::close(socket);
}

TEST(InputFile, RightsAreChecked) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TempDir dir;
  const fs::path file = dir.write("secret", "x");
  fs::permissions(file, fs::perms::none);
  EXPECT_EQ(kind_of([&] { InputFile input(file); }), ErrorKind::permission);
}

TEST(InputFile, NamesInAFolderArePlainAndLinksStayInside) {
  const TempDir dir;
  dir.write("models/snapshots/rev/inside", "in");
  dir.write("models/blobs/digest", "blob");
  dir.write("outside", "out");
  dir.write("models/blobs2/digest", "near");
  const fs::path folder = dir / "models/snapshots/rev";
  const auto link = [&](const char* to, const char* name) { fs::create_symlink(to, folder / name); };
  link("inside", "to_inside"), link("../../blobs/digest", "to_blob"), link("../../../outside", "to_outside"), link("/etc/passwd", "to_etc");
  link("../../blobs2/digest", "to_near"), link("nowhere", "dangling"), link("to_outside", "to_link");
  fs::create_directory(folder / "sub");
  link("sub", "to_folder");
  const auto text_of = [&](const char* name) { return InputFile::open_in(folder, name).read_text(0, 2); };
  EXPECT_EQ(text_of("inside"), "in");
  EXPECT_EQ(text_of("to_inside"), "in");
  EXPECT_EQ(text_of("to_blob"), "bl");
  for (const char* name :
       {"to_outside", "to_etc", "to_near", "to_link", "to_folder", "sub", "../rev/inside", "..", ".", "", "/etc/passwd", "sub/../inside"})
    EXPECT_EQ(kind_of([&] { InputFile::open_in(folder, name); }), ErrorKind::data) << name;
  EXPECT_EQ(kind_of([&] { InputFile::open_in(folder, "dangling"); }), ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { InputFile::open_in(folder, "absent"); }), ErrorKind::missing);
  EXPECT_NE(error_of([&] { InputFile::open_in(folder, "to_etc"); }).find("leads out of the folder, to /etc/passwd"), std::string::npos);
}

TEST(InputFile, AChangeWhileReadingIsFound) {
  const TempDir dir;
  const fs::path path = dir.write("a", "0123456789");
  const InputFile file(path);
  fs::resize_file(path, 4);
  EXPECT_NE(error_of([&] { file.read_text(0, 10); }).find("changed while being read: ends at byte 4, 6 more expected"), std::string::npos);
  EXPECT_EQ(kind_of([&] { file.check_unchanged(); }), ErrorKind::data);
  const fs::path other = dir.write("b", "01234");
  const InputFile same_size(other);
  const timespec times[2] = {{1, 1}, {1, 1}};
  ASSERT_EQ(::utimensat(AT_FDCWD, other.c_str(), times, 0), 0);
  EXPECT_EQ(kind_of([&] { same_size.check_unchanged(); }), ErrorKind::data);
}

TEST(ReadFile, IsBounded) {
  const TempDir dir;
  const fs::path path = dir.write("a", "0123456789");
  EXPECT_EQ(read_file(path, 10), "0123456789");
  EXPECT_EQ(error_of([&] { read_file(path, 9); }), "10 bytes, at most 9 allowed (" + path.string() + "); give the right file");
  fs::resize_file(path, uint64_t{1} << 40);   // sparse: nothing of this size may be allocated
  EXPECT_EQ(kind_of([&] { read_file(path, 1 << 20); }), ErrorKind::data);
}

TEST(OutputFile, CreatesAppendsAndOverwritesInPlace) {
  const TempDir dir;
  OutputFile file = OutputFile::create(dir / "a");
  file.allocate(8);
  file.write_all("01234567");
  const char patch[] = {'x', 'y'};
  file.write_at(3, std::as_bytes(std::span(patch)));
  file.sync();
  EXPECT_EQ(file.size(), 8u);
  file.truncate(6);
  file.close();
  EXPECT_EQ(dir.read("a"), "012xy5");
  OutputFile more = OutputFile::append(dir / "a");
  more.write_all("!");
  more.close();
  EXPECT_EQ(dir.read("a"), "012xy5!");
  EXPECT_EQ(kind_of([&] { OutputFile::create(dir / "a"); }), ErrorKind::busy);
  EXPECT_EQ(kind_of([&] { OutputFile::create(dir / "no/such/folder"); }), ErrorKind::missing);
  fs::create_symlink("a", dir / "link");
  EXPECT_TRUE(kind_of([&] { OutputFile::create(dir / "link"); }).has_value()) << "links are never followed for writing";
  EXPECT_TRUE(kind_of([&] { OutputFile::append(dir / "link"); }).has_value());
}

TEST(OutputFile, DiskErrorsAreIoWithAdvice) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  OutputFile full = OutputFile::append("/dev/full");
  EXPECT_EQ(error_of([&] { full.write_all("x"); }),
            "writing failed: No space left on device (/dev/full); free disk space or quota, then run the same command again");
}

TEST(OutputFile, TheFileSizeLimitIsAnErrorNotASignal) {
  const TempDir dir;
  std::signal(SIGXFSZ, SIG_IGN);   // as the program does at start
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{1000, before.rlim_max};
  OutputFile file = OutputFile::create(dir / "a");
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::optional<Error> error = thrown_by([&] { file.write_all(std::string(5000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->kind, ErrorKind::io);
  EXPECT_NE(error->what_to_do.find("ulimit -f"), std::string::npos);
}

TEST(WriteFileAtomic, ReplacesWholeFilesAndLeavesNothingBehind) {
  const TempDir dir;
  write_file_atomic(dir / "a", "first");
  write_file_atomic(dir / "a", "second");
  EXPECT_EQ(dir.read("a"), "second");
  EXPECT_EQ(files_in(dir.path()), 1u);
  fs::create_directory(dir / "folder");
  EXPECT_TRUE(kind_of([&] { write_file_atomic(dir / "folder", "x"); }).has_value());
  EXPECT_EQ(files_in(dir.path()), 2u) << "the temporary file is removed after a failure";
  EXPECT_EQ(kind_of([&] { write_file_atomic(dir / "absent/a", "x"); }), ErrorKind::missing);
}

TEST(WriteFileAtomic, AFailureKeepsTheOldFile) {
  const TempDir dir;
  write_file_atomic(dir / "a", "old");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{10, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto kind = kind_of([&] { write_file_atomic(dir / "a", std::string(100, 'n')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(kind, ErrorKind::io);
  EXPECT_EQ(dir.read("a"), "old");
  EXPECT_EQ(files_in(dir.path()), 1u);
}

TEST(WriteFileAtomic, ReadersNeverSeeAPart) {
  const TempDir dir;
  write_file_atomic(dir / "a", std::string(1000, '0'));
  std::atomic<bool> stop = false;
  auto reader = std::async(std::launch::async, [&] {
    while (!stop) {
      const std::string text = dir.read("a");
      if (text.size() != 1000 || text.find_first_not_of(text[0]) != std::string::npos) return false;
    }
    return true;
  });
  for (int i = 0; i < 30; ++i) write_file_atomic(dir / "a", std::string(1000, static_cast<char>('0' + i % 10)));
  stop = true;
  EXPECT_TRUE(reader.get());
}

TEST(Folders, AreCreatedWithTheirParents) {
  const TempDir dir;
  create_folders(dir / "a/b//c/");
  create_folders(dir / "a/b/c");
  EXPECT_TRUE(fs::is_directory(dir / "a/b/c"));
  dir.write("a/file", "");
  EXPECT_EQ(kind_of([&] { create_folders(dir / "a/file/below"); }), ErrorKind::io);
  sync_folder(dir / "a");
  EXPECT_EQ(kind_of([&] { sync_folder(dir / "none"); }), ErrorKind::missing);
}

TEST(Rename, NeverReplaces) {
  const TempDir dir;
  dir.write("from/file", "f");
  fs::create_directory(dir / "empty");
  dir.write("file", "x");
  EXPECT_EQ(error_of([&] { rename_noreplace(dir / "from", dir / "empty"); }),
            "the target exists already (" + (dir / "empty").string() + "); remove it or choose another output");
  EXPECT_EQ(kind_of([&] { rename_noreplace(dir / "from/file", dir / "file"); }), ErrorKind::busy);
  EXPECT_EQ(dir.read("file"), "x");
  rename_noreplace(dir / "from", dir / "to");
  EXPECT_EQ(dir.read("to/file"), "f");
  EXPECT_EQ(kind_of([&] { rename_noreplace(dir / "from", dir / "other"); }), ErrorKind::missing);
}

TEST(Process, NonceAndFreeSpace) {
  EXPECT_EQ(process_nonce().size(), 16u);
  EXPECT_EQ(process_nonce().find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(process_nonce(), process_nonce());
  const TempDir dir;
  EXPECT_GT(free_bytes(dir.path()), 0u);
  EXPECT_GT(free_bytes(dir / "not/yet/there"), 0u) << "the nearest existing parent counts";
}

}  // namespace
}  // namespace longlora
