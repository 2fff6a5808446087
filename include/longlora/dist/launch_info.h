#pragma once
// Who this process is among the processes of a run, whoever started it: flags, torchrun, our launcher, Open MPI, MPICH, SLURM, or nobody.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
  int node_rank = 0;                 // for messages: what the launcher says, else rank / local size
  std::optional<Endpoint> endpoint;  // where rank 0 listens; absent when all ranks are on one host and none was named
  bool agent_store = false;          // torchrun owns the endpoint's port: every rank is a client of its store
  std::string run_id;                // equal on all ranks of one start; empty for one rank; at most 64 of [A-Za-z0-9._-], no leading dot
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

/// What our launcher sets beside torchrun's variables, so that a rank can tell the two apart.
inline constexpr const char* kOwnLauncherVariable = "LONGLORA_LAUNCHER";

/// Who started this process: part of the run id of last resort. Read from /proc; a start time that cannot be read is 0.
struct ParentProcess {
  int64_t pid = 0;
  uint64_t start_ticks = 0;  // since boot
};
ParentProcess parent_process();

/// Pure function of its arguments (docs/distributed.md, "Launch detection"). Contradicting, partial or malformed variables:
/// ErrorKind::config naming each variable with its value. `output_dir` and `parent` enter only the run id of last resort.
LaunchInfo detect_launch(const LaunchFlags&, const Environment&, std::string_view output_dir,
                         const ParentProcess& parent = parent_process());

/// Hosts of a SLURM node list, in its order: "a[1-3,07],b02" -> a1 a2 a3 a07 b02. Malformed, or more than 65,536 hosts:
/// ErrorKind::config with the position.
std::vector<std::string> expand_node_list(std::string_view);

/// "launch: torchrun rank 3/8 local 3/8 node 0"
std::string describe(const LaunchInfo&);

}  // namespace longlora::dist
