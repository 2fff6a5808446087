#pragma once
// SLURM's variables: is this a task of a step, how many tasks share its node, where rank 0 runs.
#include "dist/launch_claims.h"

namespace longlora::dist {

/// A task that srun started. False in a batch script and in an interactive shell, whose variables describe the allocation.
bool is_slurm_task(const Variables&);
/// Tasks on node number `node` of the step; nullopt when SLURM does not say.
std::optional<Named> slurm_local_size(const Variables&, int tasks, int node);
/// First host of the step, port 20000 + job id mod 10000; MASTER_ADDR and MASTER_PORT win, each for itself.
Endpoint slurm_endpoint(const Variables&);

}  // namespace longlora::dist
