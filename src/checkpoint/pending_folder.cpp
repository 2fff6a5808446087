#include "longlora/checkpoint/pending_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "checkpoint/folder_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {
namespace {

/// A trailing slash would make filename() empty.
fs::path normalised(const fs::path& path) {
  fs::path result = fs::absolute(path).lexically_normal();
  return result.has_filename() ? result : result.parent_path();
}

int open_and_lock(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return -1;
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  close(descriptor);
  return -1;
}

void remove_leftovers(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".tmp-";
  for (const std::string& name : names_in(target.parent_path())) {
    if (!name.starts_with(prefix)) continue;
    const fs::path leftover = target.parent_path() / name;
    const int descriptor = open_and_lock(leftover);
    if (descriptor < 0) continue;  // its writer lives
    remove_folder_quietly(leftover);
    close(descriptor);
  }
}

}  // namespace

PendingFolder::PendingFolder(const fs::path& target) : target_(normalised(target)) {
  LONGLORA_CHECK(!exists_without_following(target_), busy, "the target exists already", target_.string(),
                 "delete it or choose another --to");
  create_folders(target_.parent_path());
  remove_leftovers(target_);
  path_ = target_;
  path_ += ".tmp-" + process_nonce();
  make_folder(path_);
  descriptor_ = open_and_lock(path_);
}

PendingFolder::~PendingFolder() {
  if (descriptor_ >= 0) close(descriptor_);
}

void PendingFolder::sync() { sync_folder(path_); }

void PendingFolder::publish() {
  rename_noreplace(path_, target_);
  sync_folder(target_.parent_path());
}

}  // namespace longlora
