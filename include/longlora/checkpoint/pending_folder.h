#pragma once
// An output folder that is absent or complete: written as TARGET.tmp-<nonce>, made durable, renamed. Torch-free.
// Non-goal: replacing an existing target.
#include <filesystem>

namespace longlora {

class PendingFolder {
 public:
  /// Target exists: ErrorKind::busy. Creates missing parents durably, removes TARGET.tmp-* of processes that are gone (a living writer
  /// holds a lock on its folder), creates and locks its own.
  explicit PendingFolder(const std::filesystem::path& target);
  /// Unpublished: the folder stays for inspection until the next start for the same target.
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }  // where to write
  const std::filesystem::path& target() const { return target_; }
  /// fsync of the folder; files are synced by whoever wrote them.
  void sync();
  /// Rename without replacing, then fsync of the parent: the single instant at which the target appears.
  void publish();

 private:
  std::filesystem::path target_, path_;
  int descriptor_ = -1;
};

}  // namespace longlora
