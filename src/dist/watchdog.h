#pragma once
// Ends a run that waits in vain. Calls on device memory are watched from the moment the host enters them until a mark behind them in their
// stream is reached.
//
// Two threads, because every call into the driver can block for ever: the poller asks the driver, the judge looks only at the book and at
// the clock. What the judge decides is done by a third thread, and after `end_seconds` the process is ended whatever that one reached.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/collective_library.h"
#include "dist/flight_recorder.h"

namespace longlora::dist {

struct WatchedCall {
  FlightRecord record;
  double deadline_seconds = 0;  // from record.entered_at
  uint64_t flight_number = 0;
  CollectiveLibrary::Mark mark = nullptr;  // null: the host is still inside the call
  Stream stream = nullptr;
};

enum class Cause { deadline, device, library, control };

struct Verdict {
  Cause cause = Cause::deadline;
  std::string reason;               // what was found
  std::optional<WatchedCall> call;  // the oldest outstanding one
  double waited_seconds = 0;        // in that call
};

/// "rank 3, step 17, all_gather, sequence 812, 1024 bytes, 600.0 seconds waited: REASON"
std::string describe(const Verdict&, int rank);

/// The outstanding calls, in the order in which they were entered. Thread-safe, never waits for the driver while locked.
class WatchBook {
 public:
  explicit WatchBook(FlightRecorder& records) : records_(records) {}
  uint64_t enter(const FlightRecord&, double deadline_seconds);
  void enqueued(uint64_t number, CollectiveLibrary::Mark, Stream, double now);
  void left(uint64_t number, double now);  // ended, or failed, without a mark
  void clear();                            // the run is over: nothing is waited for any more

  using AskMark = std::function<Progress(CollectiveLibrary::Mark, std::string& error)>;
  struct Polled {
    std::vector<CollectiveLibrary::Mark> done;  // free for other calls
    std::optional<std::string> error;
  };
  /// Asks marks in order, and no mark of a stream behind a pending one.
  Polled poll(const AskMark&, double now);
  std::optional<Verdict> overdue(double now) const;
  Verdict verdict(Cause, std::string reason, double now) const;  // about the oldest call
  size_t outstanding() const;

 private:
  FlightRecorder& records_;
  mutable std::mutex mutex_;
  std::deque<std::pair<uint64_t, WatchedCall>> calls_;
  uint64_t next_ = 0;
};

struct WatchdogHooks {
  std::function<double()> now;                                // monotonic
  std::function<WatchBook::Polled()> poll_marks;              // poller: asks the driver
  std::function<std::optional<std::string>()> library_error;  // poller: asks NCCL
  std::function<std::optional<std::string>()> control_lost;   // judge; may be empty
  std::function<void(const Verdict&)> decided;                // judge, at once: must not block
  std::function<void(const Verdict&)> give_up;                // a thread of its own: flight records, aborts
  std::function<void(const Verdict&)> end_process;            // judge, when the process has not ended by itself
};

class Watchdog {
 public:
  struct Times {
    double poll_seconds = 0.1;
    double end_seconds = 4.5;  // from verdict to end_process; 5 with what the end itself takes
  };
  Watchdog(WatchBook&, WatchdogHooks, Times);
  ~Watchdog();  // a poller that is stuck in the driver is left behind, with what it refers to: hooks own their state

 private:
  struct Shared;
  static void poll(const std::shared_ptr<Shared>&);
  static void judge(const std::shared_ptr<Shared>&, WatchBook&);
  static void carry_out(const std::shared_ptr<Shared>&, const Verdict&);
  std::shared_ptr<Shared> shared_;
  std::thread poller_, judge_;
};

}  // namespace longlora::dist
