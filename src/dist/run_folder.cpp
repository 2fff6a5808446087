#include "dist/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/hash.h"

namespace longlora::dist {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxPlainName = 40, kKeptOfLongName = 20, kHashDigits = 16;

bool is_harmless(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

fs::path base_folder() {
  for (const char* name : {"XDG_RUNTIME_DIR", "TMPDIR"}) {
    const char* value = std::getenv(name);
    std::error_code ignored;
    if (value != nullptr && value[0] == '/' && fs::is_directory(value, ignored) && ::access(value, W_OK | X_OK) == 0) return value;
  }
  return "/tmp";
}

/// The file's name may have been removed between open and flock by its last owner: then the lock is on a nameless file.
bool is_named(int descriptor, const std::string& path) {
  struct stat ours {
  }, named{};
  return ::fstat(descriptor, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

}  // namespace

std::string file_name_of(const std::string& run_id) {
  const bool plain = run_id.size() <= kMaxPlainName && !run_id.empty() && std::all_of(run_id.begin(), run_id.end(), is_harmless);
  if (plain) return run_id;
  std::string name = run_id.substr(0, kKeptOfLongName);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !is_harmless(c); }, '_');
  return name + "-" + to_hex(sha256(run_id)).substr(0, kHashDigits);
}

fs::path user_folder() {
  const fs::path folder = base_folder() / fmt::format("longlora-{}", ::geteuid());
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) fail_errno(errno, "creating the folder", folder.string());
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) fail_errno(errno, "reading the folder's status", folder.string());
  const bool is_ours = S_ISDIR(status.st_mode) && status.st_uid == ::geteuid() && (status.st_mode & 07777) == 0700;
  LONGLORA_CHECK(is_ours, permission,
                 fmt::format("it must be a folder of user {} with mode 0700, and has owner {} and mode {:04o}", ::geteuid(), status.st_uid,
                             status.st_mode & 07777),
                 folder.string(), "remove it, or set XDG_RUNTIME_DIR to a folder of this user on all ranks");
  return folder;
}

std::string RunFolder::socket_path(int rank) const { return rank == 0 ? base_ + ".sock" : fmt::format("{}.{}.sock", base_, rank); }

void RunFolder::lock(double seconds) {
  const std::string path = base_ + ".lock";
  const double deadline = monotonic_seconds() + seconds;
  for (;;) {
    lock_ = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!lock_) fail_errno(errno, "opening the lock", path);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0 && is_named(lock_.get(), path)) return;
    if (monotonic_seconds() > deadline) {
      lock_.reset();
      fail(ErrorKind::peer, "two processes claim rank 0 of one run: another one is alive", path,
           "end the other run, or give this one another LONGLORA_RUN_ID");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Descriptor RunFolder::listen(int rank) {
  const std::string path = socket_path(rank);
  const Address address = Address::unix_path(path);
  ::unlink(path.c_str());  // rank 0 has the lock; another rank comes here only once rank 0 has verified that it is the only one
  Descriptor socket = listen_on(address);
  if (!socket) fail_errno(errno, "listening", path);
  bound_ = path;
  return socket;
}

RunFolder::~RunFolder() {
  if (!bound_.empty()) ::unlink(bound_.c_str());
  if (!lock_) return;
  ::unlink(secret_path().c_str());
  ::unlink((base_ + ".lock").c_str());
}

}  // namespace longlora::dist
