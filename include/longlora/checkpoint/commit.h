#pragma once
// Checkpoint folders that are complete or invisible (docs/checkpoint.md): temporary folder, files with digests, manifest last, rename.
// Torch-free. Non-goals: knowing what is inside a checkpoint; several writers in one folder (the run's lock prevents them).
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/hash.h"

namespace longlora {

struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  Digest digest{};
};
struct Manifest {
  int64_t step = 0;
  std::string chain;
  std::vector<ManifestFile> files;
};

/// MANIFEST.json: format version, step, chain, name, size and SHA-256 of every file, last its own SHA-256 (over the text with that
/// value zeroed). One manifest has exactly one text.
std::string print_manifest(const Manifest&);
/// Inverse. Any other text: ErrorKind::data naming `source`; intact text of another format version: ErrorKind::mismatch naming both.
Manifest parse_manifest(std::string_view text, std::string_view source);

class CheckpointFolder {
 public:
  /// Creates the folder durably; removes tmp-* and trash-* of other nonces. Only for the owner of the run's lock.
  explicit CheckpointFolder(std::filesystem::path folder);

  /// Writes step `step`: `fill` gets the temporary folder, writes and fsyncs its files and returns their digests (computed over the
  /// buffers that were written). Then folder fsync, manifest, rename, parent fsync. On return the checkpoint is durable.
  /// A failure removes the temporary folder and rethrows; older checkpoints are untouched.
  /// The step exists: verified with the same chain = already saved, else ErrorKind::busy.
  std::filesystem::path commit(int64_t step, const std::string& chain,
                               const std::function<std::vector<ManifestFile>(const std::filesystem::path&)>& fill);
  /// Keeps the newest `keep` steps verified by this process (committed or digested by it) and deletes the older steps, verified or not.
  /// With fewer than `keep` verified steps nothing is deleted, so a verified one always stays. Failures are warnings.
  void rotate(int64_t keep);

  struct Found {
    int64_t step;
    std::filesystem::path path;
    Manifest manifest;
  };
  /// Highest step that verifies (names, sizes, digests). Damaged ones are named in a warning and renamed bad-* once a lower one
  /// verified. None exists: nullopt. Some exist and none verifies: ErrorKind::no_checkpoint, nothing touched. An I/O error or a
  /// missing right is not damage: it is thrown, nothing touched.
  std::optional<Found> choose();
  /// The same without changing anything: for commands that read a run which another process may be writing.
  static std::optional<Found> latest(const std::filesystem::path& folder);
  /// One given folder; ErrorKind::data naming the failing file. A folder named step-* must hold that step.
  static Found verify(const std::filesystem::path& step_folder);
  std::vector<int64_t> steps() const;  // names step-%010d, ascending

 private:
  std::filesystem::path folder_;
  std::vector<int64_t> verified_;
};

/// flock on output_dir/.lock for the life of the object (the file is never unlinked and holds host, pid, boot id and run id); creates
/// output_dir durably. The loser gets ErrorKind::busy within a second, naming host, pid and run of the owner, and changes nothing.
class OutputLock {
 public:
  OutputLock(const std::filesystem::path& output_dir, const std::string& run_id);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace longlora
