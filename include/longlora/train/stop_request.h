#pragma once
// Asking a run to stop: SIGTERM, SIGINT, SIGHUP, SIGUSR1, or a file STOP in the output folder. The step in progress is finished, the
// state saved, exit code 75. A second signal ends the process at once with its default action (128 + n).
#include <filesystem>
#include <string>
#include <thread>

namespace longlora {

/// SIGPIPE and SIGXFSZ ignored: a closed pipe or a file-size limit is an error of one write, not the end of the process.
void ignore_write_signals();
/// Blocks the stop signals in this thread. Call before any library starts a thread: all threads inherit the mask, so only the
/// waiting thread of StopRequest takes them.
void block_stop_signals();

class StopRequest {
 public:
  /// Starts the waiting thread. `block_stop_signals` must have been called. Removes an old STOP file with a notice.
  explicit StopRequest(std::filesystem::path output_dir);
  ~StopRequest() = default;
  StopRequest(const StopRequest&) = delete;
  /// True once a signal has come or the STOP file stands there (which is then removed). Cheap: one atomic load and one stat.
  bool requested();
  const std::string& reason() const { return reason_; }  // "SIGTERM", "file STOP"

 private:
  std::filesystem::path stop_file_;
  std::string reason_;
  std::jthread waiter_;
};

}  // namespace longlora
