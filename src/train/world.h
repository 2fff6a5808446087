#pragma once
// The ranks of a run: who this process is, and how it reaches the others.
#include <memory>

#include "longlora/config/train_config.h"
#include "longlora/dist/communicator.h"
#include "longlora/dist/launch_info.h"
#include "longlora/train/run.h"

namespace longlora {

/// Every rank, and where rows are shared its two groups: rank = place in `rows` x sequence_parallel + place in `sequence`.
struct World {
  dist::LaunchInfo launch;
  std::unique_ptr<dist::Communicator> all;
  std::unique_ptr<dist::Communicator> rows_group, sequence;  // null when no row is shared
  std::unique_ptr<dist::Communicator> weights;               // for gathers of frozen weights alone; null when they are whole everywhere
  dist::Communicator& rows() const { return rows_group ? *rows_group : *all; }
};

/// Flags and environment. With several ranks: the GPU of this rank is selected, and --threads not given becomes this rank's share of the
/// host's cores. Nothing is connected yet.
dist::LaunchInfo find_launch(const TrainRequest&, const TrainConfig&);
/// Waits for all ranks. One rank: nothing to wait for. The transport of `dist.backend`, auto: NCCL between GPUs, TCP between CPUs.
World join(const dist::LaunchInfo&, const TrainRequest&, const TrainConfig&, bool on_gpu);

/// Whether frozen weights are shared: on all ranks as soon as one of them has no room for all of them. Opens World::weights.
bool agree_on_weights(World&, bool wanted_here);

/// Compute threads of a resumed run are those that it had: their number is part of what a resume keeps.
void take_threads(const TrainRequest&, int saved, const dist::LaunchInfo&);

}  // namespace longlora
