#pragma once
// One process at a time builds a token file; the kernel frees the lock of a dead one.
#include <filesystem>

namespace longlora {

/// Waits for an exclusive flock on `path` (created, removed again by the owner). Errors: io, permission.
class FileLock {
 public:
  explicit FileLock(std::filesystem::path path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Removes FILE.tmp-<nonce> of killed runs beside `file`. Call under the lock.
void remove_leftovers(const std::filesystem::path& file);

}  // namespace longlora
