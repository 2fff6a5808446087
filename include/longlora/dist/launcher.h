#pragma once
// Starts the ranks of one host, watches them, and ends or restarts all of them together (docs/distributed.md, "Start a run").
//
// Goals: no process survives its launcher; the exit code is the root cause's; a stop signal reaches every rank once.
// Non-goals: starting processes on other hosts (one launcher runs on each), following processes that leave their process group.
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "longlora/dist/launch_info.h"

namespace longlora::dist {

enum class ShownRanks {
  first,  // rank 0, and of the others the lines that speak of warnings and errors
  all
};

struct LauncherOptions {
  std::vector<std::string> command;          // program (looked up in PATH) and arguments
  std::vector<std::string> restart_command;  // from the second start on; empty: the same
  int ranks_per_node = 1, nodes = 1, node_rank = 0;
  std::optional<Endpoint> endpoint;  // needed with several nodes; exported as MASTER_ADDR, MASTER_PORT
  int max_restarts = 3;              // in any hour
  double grace_seconds = 90;         // between a forwarded stop signal and SIGKILL
  ShownRanks shown = ShownRanks::first;
  std::filesystem::path log_folder;           // launch_rank_N.log of every rank, appended; empty: none
  bool create_log_folder = false;             // false: lines are held (1 MiB a rank) until the command has made it
  bool pin_gpus = false;                      // CUDA_VISIBLE_DEVICES = local rank where it is not set
  Environment environment;                    // that of the launcher; variables of another world are not passed on
  double report_seconds = 5;                  // after the first failure the others may end by themselves, then SIGTERM
  double terminate_seconds = 5;               // then SIGKILL
  double first_pause_seconds = 1;             // before a restart; doubles up to 60 s
  std::function<std::string()> explain_kill;  // more about a death by SIGKILL, one sentence; may be absent
};

/// Blocks until the last rank has ended and no restart follows; the exit code of docs/distributed.md. Takes SIGTERM, SIGINT, SIGHUP,
/// SIGUSR1 and SIGCHLD of the process meanwhile. The calling thread must live as long as the ranks (it is their parent).
/// ErrorKind::config for options that contradict each other, missing or permission when the command cannot be started.
int launch(const LauncherOptions&);

}  // namespace longlora::dist
