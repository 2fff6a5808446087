#pragma once
// Who this process is among the processes of a run, whoever started it: flags, torchrun, our launcher, Open MPI, MPICH, SLURM, or nobody.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace longlora::dist {

enum class LaunchSource { flags, torchrun, own_launcher, open_mpi, mpich, slurm, single };
std::string_view name_of(LaunchSource);

struct Endpoint {
  std::string host;  // name or address
  uint16_t port = 0;
};

struct LaunchInfo {
  LaunchSource source = LaunchSource::single;
  int rank = 0, world_size = 1;
  int local_rank = 0, local_world_size = 1;
  int node_rank = 0;
  std::optional<Endpoint> endpoint;  // where rank 0 listens; absent when all ranks are on one host and none was named
  bool agent_store = false;          // torchrun owns the endpoint's port: every rank is a client of its store
  std::string run_id;                // equal on all ranks of one start, different between starts; empty for one rank
  bool one_host() const { return local_world_size == world_size; }
};

/// What train's flags say; each absent unless given.
struct LaunchFlags {
  std::optional<int> rank, world_size, local_rank, local_world_size;
  std::optional<std::string> master_addr;
  std::optional<int> master_port;
};

using Environment = std::map<std::string, std::string>;
Environment process_environment();

/// Pure function of its arguments (docs/distributed.md, "Launch detection"). Contradicting, partial or malformed variables:
/// ErrorKind::config naming each variable with its value. `output_dir` enters only the run id of last resort.
LaunchInfo detect_launch(const LaunchFlags&, const Environment&, std::string_view output_dir);

/// "launch: torchrun rank 3/8 local 3/8 node 0"
std::string describe(const LaunchInfo&);

}  // namespace longlora::dist
