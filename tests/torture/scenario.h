#pragma once
// What the torture program does to checkpoints: the real commit, rotation, recovery and export code on small files.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "torture/traced_child.h"

namespace longlora::torture {

using Report = std::function<void(char)>;

/// What was done and what went wrong; printed at the end.
struct Score {
  int64_t faults = 0, losses = 0, wrong_codes = 0;
  void loss(const std::string& what);
  void wrong_code(const std::string& what);
};

/// A folder for one case, on a memory file system when there is one.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// Replaces the working copy by the prepared folder.
  void reset() const;
  std::filesystem::path prepared() const { return root_ / "prepared"; }
  std::filesystem::path run() const { return root_ / "run"; }  // output_dir of the child
  std::filesystem::path checkpoints() const { return run() / "checkpoints"; }

 private:
  std::filesystem::path root_;
};

// Bodies of children; they return exit codes through run_guarded.
int save_body(const std::filesystem::path& run, int64_t step, int64_t keep, const Report&);  // lock, recover, commit ('S'), rotate ('R')
int recover_body(const std::filesystem::path& run, const Report&);                           // lock, recover ('C')
int export_body(const std::filesystem::path& run, const Report&);                            // run/model, complete or absent ('E')

/// Builds prepared(): complete steps, and leftovers and damage where wanted.
enum class Start { two_steps, one_step, damaged_and_leftovers, export_leftover };
void prepare(const Arena&, Start);

/// Highest verified step, -1 when there is none, -2 when some step-* folder does not verify. In a child: the parent draws no nonce.
int64_t highest_complete(const std::filesystem::path& checkpoints, bool all_must_verify);

std::vector<std::string> names(const std::filesystem::path& folder);
bool has_prefix(const std::filesystem::path& folder, const std::string& prefix);
bool export_is_complete(const std::filesystem::path& run);

// Sections of the program.
void kill_at_every_call(Score&);
void fail_every_call(Score&);
void fill_the_disk(Score&);
void damage_checkpoints(Score&, uint64_t seed);
void race_for_the_lock(Score&);

}  // namespace longlora::torture
