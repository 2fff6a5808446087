#pragma once
// Where the ranks of one host meet: sockets and secret of a run in a folder that only this user can enter.
#include <filesystem>
#include <string>

#include "dist/socket.h"

namespace longlora::dist {

/// The run id as a file name: unchanged when short and harmless, else a part of it and a hash.
std::string file_name_of(const std::string& run_id);

/// XDG_RUNTIME_DIR, TMPDIR or /tmp, first that is set and exists, + longlora-<uid>; created with mode 0700. Another owner or mode, or a
/// symbolic link: ErrorKind::permission.
std::filesystem::path user_folder();

/// Paths of one run; rank 0 holds its lock, which the kernel releases with the process, so files of a dead run are never in the way.
class RunFolder {
 public:
  explicit RunFolder(const std::string& run_id) : base_((user_folder() / file_name_of(run_id)).string()) {}
  RunFolder(const RunFolder&) = delete;
  ~RunFolder();
  std::string socket_path(int rank) const;
  std::string secret_path() const { return base_ + ".secret"; }
  /// Rank 0 only. A living rank 0 of the same run id after `seconds`: ErrorKind::peer.
  void lock(double seconds);
  /// Listens on the rank's socket, replacing one that a dead process left; the file goes with this object.
  Descriptor listen(int rank);

 private:
  std::string base_;
  Descriptor lock_;
  std::string bound_;
};

}  // namespace longlora::dist
