#pragma once
// Going on with a saved run: which checkpoint, and which settings may differ (docs/checkpoint.md, resume classes).
#include <optional>
#include <string>
#include <vector>

#include "longlora/checkpoint/train_state.h"
#include "longlora/config/config_io.h"
#include "longlora/dist/communicator.h"
#include "longlora/train/run.h"

namespace longlora {

struct ResumeState {
  CheckpointFolder::Found found;
  TrainState state;
};

/// The checkpoint to go on from: nullopt when there is none (or --resume never). --resume PATH below higher steps of the same folder: busy.
/// The root (the one with a folder) chooses, every rank reads and verifies the same one; another manifest there: ErrorKind::peer.
std::optional<ResumeState> choose_resume(CheckpointFolder*, const TrainRequest&, dist::Communicator&);

struct MergedConfig {
  LoadedConfig loaded;
  std::vector<LineageEntry> lineage;  // the old one plus explicit changes of this start
  std::vector<std::string> notices;
};
/// The configuration that holds from here on. Frozen keys that differ, and explicit keys changed in a file only: ErrorKind::mismatch
/// listing every key as `key: old -> new`. Explicit keys given by --set or a flag take effect and enter the lineage.
MergedConfig merge_config(const LoadedConfig& wanted, const ConfigSources&, const TrainState&);

/// Weights, tokenizer, data, threads and libraries must be those of the checkpoint.
void check_identity(const TrainState&, const std::map<std::string, std::string>& identity,
                    const std::map<std::string, std::string>& fingerprint, bool deterministic);

}  // namespace longlora
