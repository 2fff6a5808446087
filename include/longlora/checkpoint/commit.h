#pragma once
// Checkpoint folders that are complete or invisible (docs/checkpoint.md): temporary folder, files with digests, manifest last, rename.
// Torch-free. Non-goals: knowing what is inside a checkpoint; several writers in one folder (the run's lock prevents them).
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "longlora/core/hash.h"

namespace longlora {

struct ManifestFile { std::string name; uint64_t bytes = 0; Digest digest{}; };
struct Manifest { int64_t step = 0; std::string chain; std::vector<ManifestFile> files; };

/// Which complete steps to delete: all but the newest `keep` (>= 1). Pure, signed.
std::vector<int64_t> retained_victims(std::vector<int64_t> complete_steps, int64_t keep);

class CheckpointFolder {
 public:
  /// Creates the folder durably; removes tmp-* and trash-* of other nonces.
  explicit CheckpointFolder(std::filesystem::path folder);

  /// Writes step `step`: `fill` gets the temporary folder, writes and fsyncs its files and returns their digests (computed over the
  /// buffers that were written). Then folder fsync, manifest, rename, parent fsync. On return the checkpoint is durable.
  /// A failure removes the temporary folder and rethrows; older checkpoints are untouched.
  std::filesystem::path commit(int64_t step, const std::string& chain,
                               const std::function<std::vector<ManifestFile>(const std::filesystem::path&)>& fill);
  /// Deletes what retained_victims says among steps verified by this process; failures are warnings.
  void rotate(int64_t keep);

  struct Found { int64_t step; std::filesystem::path path; Manifest manifest; };
  /// Highest step that verifies (names, sizes, digests). Damaged ones are named in a warning and renamed bad-* once a lower one
  /// verified. None exists: nullopt. Some exist and none verifies: ErrorKind::no_checkpoint, nothing touched.
  std::optional<Found> choose();
  /// One given folder; ErrorKind::data naming the failing file.
  static Found verify(const std::filesystem::path& step_folder);
  std::vector<int64_t> steps() const;                        // names step-%010d, ascending

 private:
  std::filesystem::path folder_;
  std::vector<int64_t> verified_;
};

/// flock on output_dir/.lock for the life of the object; the loser gets ErrorKind::busy naming host, pid and run of the owner.
class OutputLock {
 public:
  OutputLock(const std::filesystem::path& output_dir, const std::string& run_id);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
 private:
  int descriptor_ = -1;
};

}  // namespace longlora
