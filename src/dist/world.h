#pragma once
// One process's part in a run: what its communicator and all parts of it share.
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>

#include "dist/control.h"
#include "dist/flight_recorder.h"
#include "dist/run_folder.h"
#include "dist/run_state.h"

namespace longlora::dist {

struct World {
  World(const Hello& hello, const RunKeys& run_keys, Control::Times times, bool allow_mixed_binaries)
      : own(hello),
        keys(run_keys),
        state(static_cast<int>(hello.rank), static_cast<int>(hello.world)),
        control(state, times, allow_mixed_binaries) {}
  /// Passes `reason` on to all ranks; the first reason of the run stays.
  void fail_run(const std::string& reason) noexcept {
    state.raise(reason);
    control.announce();
  }

  const Hello own;
  const RunKeys keys;
  std::unique_ptr<RunFolder> folder;  // on one host
  RunState state;
  Control control;
  std::shared_ptr<FlightRecorder> flight = std::make_shared<FlightRecorder>();  // of all transports
  std::string rank_0_address;                                                   // as this rank reached it
  std::filesystem::path log_folder;
  double collective_seconds = 600;
  std::mutex one_call;  // data connections are shared by all parts: one call at a time
};

}  // namespace longlora::dist
