#pragma once
// The control thread of a process: it answers the gate, keeps the star of control connections to rank 0 alive, notices lost ranks, and
// passes failures on. It never waits for a peer.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/handshake.h"
#include "dist/link.h"
#include "dist/run_state.h"

namespace longlora::dist {

class Control {
 public:
  struct Times {
    double heartbeat_seconds = 2, silence_seconds = 30;
  };
  Control(RunState&, Times, bool allow_mixed_binaries);
  ~Control();
  Control(const Control&) = delete;

  /// Before start(): what this rank listens on (none for the highest rank) and, on other ranks than 0, the connection to rank 0.
  void open_gate(Descriptor listener, const RunKeys&, const Hello& own);
  void connect(Descriptor to_rank_0, const std::string& own_address);
  void start();

  /// From any thread: a call has waited for `suspect` until its deadline. Rank 0 finds out whom all wait for and fails the run.
  void report(int suspect, const std::string& call);
  /// From any thread: passes on a failure of the state; returns when it is sent, after a second at most.
  void announce() noexcept;
  /// Says goodbye (unless the run has failed) and ends the thread.
  void leave() noexcept;

 private:
  struct Inquiry {
    double begun = 0;
    int reporter = 0;
    Report report;
  };
  void loop() noexcept;
  bool turn();
  void wait_for_events();
  void take_commands();
  void announce_failure();
  void serve_links();
  void serve(Link&);
  void handle(Link&, const Link::Message&);
  void handle_at_server(Link&, const Link::Message&);
  void handle_at_client(Link&, const Link::Message&);
  void lost(Link&, const std::string& how);
  void watch_time();
  std::optional<std::string> refuse(const Hello&, bool is_pair);
  std::optional<std::string> refuse_member(const Hello&);
  void enter(Descriptor, const Hello&, bool is_pair);
  void publish_addresses();
  void open_inquiry(int reporter, const Report&);
  void decide();
  std::string culprit_of(const Inquiry&) const;
  Activity activity_of(int rank) const;
  void queue_all(FrameType, std::string_view payload, int except = -1);
  bool is_server() const { return state_.rank() == 0; }
  void wake();

  RunState& state_;
  const Times times_;
  const bool allow_mixed_binaries_;
  Hello own_;
  std::unique_ptr<Gate> gate_;
  std::vector<std::unique_ptr<Link>> links_;  // by rank; only rank 0's on other ranks
  std::vector<Digest> hosts_;
  std::optional<Inquiry> inquiry_;
  double next_heartbeat_ = 0, last_turn_ = 0, leave_deadline_ = 0;
  bool is_announced_ = false, is_leaving_ = false;

  Descriptor command_;
  std::mutex mutex_;  // of the next four
  std::condition_variable announced_;
  std::optional<Report> command_report_;
  bool command_leave_ = false, has_announced_ = false;
  std::thread thread_;
};

/// "step 12, all_gather #812": where a rank is, by its last heartbeat.
std::string describe(const Activity&);
/// What two ranks of one run do not agree on, naming both; nullopt when they may work together. Pure.
std::optional<std::string> disagreement(const Hello& own, const Hello& theirs, bool allow_mixed_binaries);

}  // namespace longlora::dist
