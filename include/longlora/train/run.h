#pragma once
// The `train` command without its flags: configuration in, checkpoints, logs and the trained model out.
#include <filesystem>
#include <optional>
#include <string>

#include "longlora/config/config_io.h"
#include "longlora/dist/launch_info.h"
#include "longlora/train/observers.h"
#include "longlora/train/readers.h"

namespace longlora {

enum class ResumeMode { automatic, never, path };

struct TrainRequest {
  ConfigSources sources;
  ResumeMode resume = ResumeMode::automatic;
  std::filesystem::path resume_path;     // with ResumeMode::path: one step-NNNNNNNNNN folder
  bool dry_run = false;                  // stops after the plan, writes nothing
  std::filesystem::path dump_gradients;  // gradients of the first step as safetensors, then stops
  ProgressMode progress = ProgressMode::automatic;
  int threads = 0;  // --threads; 0: physical cores over local ranks, or what a resumed run had
  // several ranks (docs/distributed.md)
  dist::LaunchFlags launch;
  std::string interface;  // where rank 0 listens
  bool allow_mixed_binaries = false;
  ConnectStore connect_store;  // torchrun's, where it runs one
};

/// Runs to the end (returns 0) or throws; ErrorKind::preempted after a requested stop with the state saved. Stop signals must be blocked.
int run_training(const TrainRequest&);

}  // namespace longlora
