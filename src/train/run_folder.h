#pragma once
// output_dir: owned by one run, probed before weights are read, described by files that a reader finds later.
#include <filesystem>
#include <memory>
#include <string>

#include "longlora/checkpoint/commit.h"
#include "longlora/train/prepare.h"
#include "longlora/train/run.h"

namespace longlora {

struct PlanReport;

class RunFolder {
 public:
  /// The folder as rank `rank` sees it; only the root's is written to, but for a log of every rank.
  RunFolder(const PreparedRun&, int rank);
  /// Root: creates the folder, takes the lock (busy), checks `--resume never` (busy when not empty), probes writing and free space (io).
  void open(const PreparedRun&, ResumeMode);
  const std::filesystem::path& path() const { return path_; }
  CheckpointFolder* checkpoints() { return checkpoints_.get(); }  // the root's
  /// config.yaml with origins, environment.json.
  void describe(const PreparedRun&, const std::map<std::string, std::string>& identity) const;
  /// Lines of the predicted time, and plan.json (as `plan --json` prints it) beside them. A disk that refuses costs the file, not the run.
  void describe_plan(const PlanReport&) const;
  /// A line for people: the root's log, and logs/rank_N.log.
  void say(const std::string& line) const;
  std::filesystem::path log_file() const { return path_ / "logs" / ("rank_" + std::to_string(rank_) + ".log"); }

 private:
  int rank_;
  std::filesystem::path path_;
  std::unique_ptr<OutputLock> lock_;
  std::unique_ptr<CheckpointFolder> checkpoints_;
};

}  // namespace longlora
