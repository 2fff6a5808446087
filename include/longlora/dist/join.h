#pragma once
// From a LaunchInfo to a Communicator: rendezvous with authenticated, bounded, deadline-guarded frames; then one control connection per
// rank to rank 0 with heartbeats (docs/distributed.md, "Rendezvous").
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "longlora/core/hash.h"
#include "longlora/dist/communicator.h"
#include "longlora/dist/launch_info.h"

namespace longlora::dist {

/// A key-value store that another launcher runs (torchrun's); its only implementation with a network behind it lives in `apps`.
class BootstrapStore {
 public:
  virtual ~BootstrapStore() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  /// Waits for the key; ErrorKind::peer after `seconds`.
  virtual std::string get(const std::string& key, double seconds) = 0;
};

enum class Backend { tcp, nccl };

struct JoinOptions {
  Backend backend = Backend::tcp;
  int device = 0;   // nccl: CUDA ordinal of this rank
  Digest binary{};  // program and libraries; ranks with another one are refused unless allow_mixed_binaries
  Digest config{};  // resolved frozen configuration
  int sequence_parallel = 1;
  bool allow_mixed_binaries = false;
  std::string interface;             // name or address rank 0 listens on; "any": all of them; empty: what the endpoint resolves to
  std::filesystem::path log_folder;  // flight_rank_N.jsonl after a lost peer; empty: not written
  BootstrapStore* store = nullptr;   // with LaunchInfo::agent_store
  double setup_seconds = 300;        // until all ranks have joined
  double collective_seconds = 600;   // one call of a step
  double heartbeat_seconds = 2, silence_seconds = 30;
};

/// world_size 1: single(). Missing ranks at the deadline, a duplicate rank, another world size, binary or configuration: ErrorKind::peer
/// naming them; several hosts without a secret: ErrorKind::config with the commands that make one.
std::unique_ptr<Communicator> join_world(const LaunchInfo&, const JoinOptions&);

}  // namespace longlora::dist
