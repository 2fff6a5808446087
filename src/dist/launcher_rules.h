#pragma once
// What an end means: which rank is to blame, and whether a new start can help. Pure, no process is touched.
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace longlora::dist {

struct RankEnd {
  int rank = 0;
  int code = 0;              // exit code, or 128 + signal
  double seconds = 0;        // monotonic, of the reap
  bool consequence = false;  // ended by a signal that the launcher sent after another rank's failure
};

struct RootCause {
  int rank = -1;  // -1: nobody failed
  int code = 0;
};

/// The earliest failure that is neither 76 (a rank that lost another one) nor a consequence; else the earliest 76; else the earliest.
RootCause root_cause(std::span<const RankEnd>);

/// "exit code 70 (internal)", "signal 9 (Killed), exit code 137"
std::string describe_code(int code);

/// Restarts after 76, death by a signal, or 70 once; at most `per_hour` in any hour; pauses of first, 2 first, 4 first ... at most 60 s.
class RestartRule {
 public:
  RestartRule(int per_hour, double first_pause_seconds) : per_hour_(per_hour), first_pause_seconds_(first_pause_seconds) {}
  /// Seconds to wait before the restart, which is counted; nullopt: no restart.
  std::optional<double> pause_before_restart(int code, double now_seconds);
  /// Why the last answer was no.
  const std::string& refusal() const { return refusal_; }

 private:
  int per_hour_;
  double first_pause_seconds_;
  bool internal_error_seen_ = false;
  std::deque<double> restarts_;  // times, last hour
  std::string refusal_;
};

}  // namespace longlora::dist
