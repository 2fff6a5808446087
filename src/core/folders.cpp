#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {

namespace {

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

bool is_folder(const fs::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

/// Makes one folder, durable.
void make_folder(const fs::path& path) {
  if (::mkdir(path.c_str(), 0777) == 0) return sync_folder(parent_of(path));
  if (errno == EEXIST && is_folder(path)) return;   // another process was quicker
  fail_errno(errno == EEXIST ? ENOTDIR : errno, "creating the folder", path.string());
}

[[noreturn]] void fail_target_exists(const fs::path& path) {
  fail(ErrorKind::busy, "the target exists already", path.string(), "remove it or choose another output");
}

/// Removes a temporary file unless it was renamed.
struct TemporaryFile {
  fs::path path;
  bool kept = false;
  ~TemporaryFile() {
    if (!kept) ::unlink(path.c_str());
  }
};

}  // namespace

void sync_folder(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_errno(errno, "opening the folder", path.string());
  int result = 0;
  do result = ::fsync(descriptor);
  while (result != 0 && errno == EINTR);
  const int error_number = errno;
  ::close(descriptor);
  if (result != 0 && error_number != EINVAL && error_number != EBADF)   // some network file systems cannot sync folders
    fail_errno(error_number, "syncing the folder to disk", path.string());
}

void create_folders(const fs::path& path) {
  fs::path so_far;
  for (const fs::path& component : path) {
    so_far = so_far.empty() ? component : so_far / component;
    if (component.empty() || is_folder(so_far)) continue;
    make_folder(so_far);
  }
}

void rename_noreplace(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno == EEXIST || errno == ENOTEMPTY) fail_target_exists(to);
  if (errno != EINVAL && errno != ENOSYS) fail_errno(errno, "renaming to " + to.filename().string(), from.string());
  struct stat status {};
  if (::lstat(to.c_str(), &status) == 0) fail_target_exists(to);
  if (::rename(from.c_str(), to.c_str()) == 0) return;
  if (errno == EEXIST || errno == ENOTEMPTY) fail_target_exists(to);
  fail_errno(errno, "renaming to " + to.filename().string(), from.string());
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  static std::atomic<uint64_t> counter = 0;
  const fs::path folder = parent_of(path);
  TemporaryFile temporary{folder / fmt::format(".tmp-{}-{}", process_nonce(), counter++)};
  OutputFile file = OutputFile::create(temporary.path);
  file.write_all(content);
  file.sync();
  file.close();
  if (::rename(temporary.path.c_str(), path.c_str()) != 0) fail_errno(errno, "replacing the file", path.string());
  temporary.kept = true;
  sync_folder(folder);
}

const std::string& process_nonce() {
  static const std::string nonce = [] {
    uint64_t bits = 0;
    while (::getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) {
      if (errno != EINTR) fail_errno(errno, "drawing random bits", "getrandom");
    }
    return fmt::format("{:016x}", bits);
  }();
  return nonce;
}

uint64_t free_bytes(const fs::path& path) {
  std::error_code ignored;
  fs::path probe = fs::absolute(path, ignored);
  struct statvfs status {};
  while (::statvfs(probe.c_str(), &status) != 0) {
    if ((errno != ENOENT && errno != ENOTDIR) || !probe.has_relative_path()) fail_errno(errno, "asking for free space", path.string());
    probe = probe.parent_path();
  }
  return uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace longlora
