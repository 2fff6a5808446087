#include "data/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/core/log.h"

namespace longlora {
namespace fs = std::filesystem;
namespace {

int open_lock(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (descriptor < 0) fail_errno(errno, "open", path.string());
  return descriptor;
}

void wait_for(int descriptor, const fs::path& path) {
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK) log_info("waiting for another process that builds {}", path.stem().string());
  while (::flock(descriptor, LOCK_EX) != 0)
    if (errno != EINTR) fail_errno(errno, "lock", path.string());
}

/// False when the file was removed by its last owner between our open and our lock.
bool is_current(int descriptor, const fs::path& path) {
  struct stat held{}, named{};
  return ::fstat(descriptor, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

}  // namespace

FileLock::FileLock(fs::path path) : path_(std::move(path)) {
  while (true) {
    descriptor_ = open_lock(path_);
    wait_for(descriptor_, path_);
    if (is_current(descriptor_, path_)) return;
    ::close(descriptor_);
  }
}

FileLock::~FileLock() {
  ::unlink(path_.c_str());             // while still held: who waits notices by is_current and opens the new file
  ::close(descriptor_);
}

void remove_leftovers(const fs::path& file) {
  const std::string prefix = file.filename().string() + ".tmp-";
  std::error_code error;
  std::vector<fs::path> found;
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  for (const fs::path& path : found) fs::remove(path, error);
}

}  // namespace longlora
