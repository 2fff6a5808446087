#pragma once
// A name that all ranks of one start find by themselves.
#include "dist/launch_claims.h"

namespace longlora::dist {

/// LONGLORA_RUN_ID; torchrun's run id and restart count; SLURM job.step; PMIx namespace; else a hash.
std::string find_run_id(const LaunchInfo&, const Variables&, std::string_view output_dir, const ParentProcess&);

}  // namespace longlora::dist
