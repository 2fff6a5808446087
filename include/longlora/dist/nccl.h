#pragma once
// Device memory between GPUs by NCCL, beside a host communicator that keeps everything else (docs/distributed.md, "NCCL").
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "longlora/dist/communicator.h"

namespace longlora::dist {

class FlightRecorder;

struct NcclOptions {
  /// Name or address of a network interface of this host; becomes NCCL_SOCKET_IFNAME where the user has not set that. Empty: loopback
  /// when all ranks share a host, else NCCL's own choice; "any": NCCL's own choice.
  std::string interface;
  std::filesystem::path log_folder;  // flight_rank_N.jsonl after a lost peer; empty: not written
  double setup_seconds = 300;        // until all ranks have joined a communicator
  double collective_seconds = 600;   // from the enqueueing of a call to its end on the device
  /// Asked every 100 ms from a thread of its own: why the control connection is lost, or the run aborted, once it is. Must not block.
  /// Without it a rank learns of another's abort only through NCCL or at its deadline.
  std::function<std::optional<std::string>()> control_lost;
  std::shared_ptr<FlightRecorder> records;  // shared with the host communicator; null: one of its own
};

/// Host memory, sum, max, barrier and split travel over `control`; device memory over NCCL, ordered by the stream of the call, which
/// returns when the work is enqueued. Collective over all ranks of `control`; `device` is the CUDA ordinal of this rank.
/// ErrorKind::config on all ranks: a program without NCCL, another NCCL than the one compiled against, two ranks on one GPU.
/// ErrorKind::peer: no driver, a lost device, a rank that does not come within setup_seconds.
/// A watchdog ends the process with 76 within 5 s of an error or a deadline, even when the calling thread is stuck in the driver.
std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> control, int device, const NcclOptions&);

/// "2.28.9", of the library that this machine loads, for doctor and the fingerprint of the program; nullopt when the program was built
/// without NCCL or the library is not there.
std::optional<std::string> nccl_version();

}  // namespace longlora::dist
