#pragma once
// What all NCCL communicators of a rank share: the library, its live handles, the watchdog's book, and how a run ends.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/collective_library.h"
#include "dist/flight_recorder.h"
#include "dist/nccl_transport.h"
#include "dist/watchdog.h"
#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"

namespace longlora::dist {

inline constexpr const char* kAfterPeerFailure =
    "look at the first rank that failed; the last checkpoint is valid, run the same command again";

/// What all communicators of a rank share, and the watchdog's threads with them.
struct NcclSession {
  using Handle = CollectiveLibrary::Handle;

  std::unique_ptr<Communicator> control;
  std::unique_ptr<CollectiveLibrary> library;
  std::shared_ptr<FlightRecorder> records;
  std::unique_ptr<WatchBook> book;
  NcclOptions options;
  NcclSurroundings surroundings;
  int rank = 0;

  // held around every use of a handle; whoever ends the run takes it with patience only: its holder may be stuck in the driver
  std::timed_mutex gate;
  std::vector<Handle> handles;

  std::mutex mutex;  // of what follows
  std::optional<std::string> dead;
  const char* phase = "";
  int64_t step = 0;
  int communicators = 0;
  std::vector<CollectiveLibrary::Mark> free_marks;

  std::string place();  // in words
  double now() const { return surroundings.now(); }
  void die(const std::string& reason);
  void check_alive();
  /// Uses a handle unless it has been aborted meanwhile.
  template <class F>
  int use(Handle handle, const F& call) {
    const std::lock_guard lock(gate);
    check_alive();
    LONGLORA_INVARIANT(std::find(handles.begin(), handles.end(), handle) != handles.end());
    return call();
  }
  /// Waits until the library has done what it answered kNcclInProgress to. The deadline is the watchdog's.
  void settle(Handle handle, int result, const char* operation);
  void abort_handles() noexcept;
  void end_run(std::string_view reason, bool device_lost) noexcept;
};

/// Opens the library; every rank learns of any rank's failure before one of them waits in NCCL.
void open_library(NcclSession&, const std::function<std::unique_ptr<CollectiveLibrary>()>& open);
WatchdogHooks hooks_of(const std::shared_ptr<NcclSession>&);

}  // namespace longlora::dist
