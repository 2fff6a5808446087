#include "checkpoint/folder_tools.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "longlora/core/error.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};
using FolderHandle = std::unique_ptr<DIR, CloseFolder>;

FolderHandle open_folder(const std::filesystem::path& folder, int flags) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
  if (descriptor < 0) fail_errno(errno, "open folder", folder.string());
  DIR* handle = fdopendir(descriptor);
  if (!handle) {
    const int error_number = errno;
    close(descriptor);
    fail_errno(error_number, "open folder", folder.string());
  }
  return FolderHandle(handle);
}

std::vector<std::string> read_names(DIR* folder, const std::filesystem::path& shown) {
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(folder);
    if (!entry) break;
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  if (errno != 0) fail_errno(errno, "list folder", shown.string());
  std::sort(names.begin(), names.end());
  return names;
}

void unlink_entry(int parent, const std::string& name, int flags, const std::filesystem::path& shown) {
  if (unlinkat(parent, name.c_str(), flags) != 0 && errno != ENOENT) fail_errno(errno, "delete", shown.string());
}

}  // namespace

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  // A link to a folder is the user's choice here (output folders may be links); only entries inside are never followed.
  return read_names(open_folder(folder, 0).get(), folder);
}

void make_folder(const std::filesystem::path& folder) {
  if (mkdir(folder.c_str(), 0777) == 0) return;
  LONGLORA_CHECK(errno != EEXIST, busy, "the folder exists already", folder.string(), "delete it or use another name");
  fail_errno(errno, "create folder", folder.string());
}

void remove_folder(const std::filesystem::path& folder) {
  if (!exists_without_following(folder)) return;
  {
    const FolderHandle handle = open_folder(folder, O_NOFOLLOW);
    const int parent = dirfd(handle.get());
    for (const std::string& name : read_names(handle.get(), folder)) {
      struct stat status;
      if (fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) continue;
        fail_errno(errno, "examine", (folder / name).string());
      }
      if (S_ISDIR(status.st_mode)) {
        remove_folder(folder / name);
      } else {
        unlink_entry(parent, name, 0, folder / name);
      }
    }
  }
  unlink_entry(AT_FDCWD, folder.string(), AT_REMOVEDIR, folder);
}

void remove_folder_quietly(const std::filesystem::path& folder) noexcept {
  try {
    remove_folder(folder);
  } catch (const std::exception& error) {
    log_warning("cannot remove {}: {}", folder.string(), error.what());
  }
}

bool exists_without_following(const std::filesystem::path& path) {
  struct stat status;
  if (lstat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_errno(errno, "examine", path.string());
  return false;
}

}  // namespace longlora
