#pragma once
// What the caller's thread and the control thread of one process share: whether the run has failed, who has left, the data connections.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "dist/frame.h"
#include "dist/socket.h"

namespace longlora::dist {

class RunState {
 public:
  RunState(int rank, int world);
  int rank() const { return rank_; }
  int world() const { return world_; }

  /// The first reason stays and wakes every wait of this process. True when it was the first.
  bool raise(const std::string& reason) noexcept;
  bool has_failed() const { return failed_.load(std::memory_order_acquire); }
  std::string reason() const;
  /// Readable from the moment of the failure on: part of every poll of a data call.
  int wake_descriptor() const { return wake_.get(); }
  /// Waits up to `seconds` for a failure, or for one of `peer` having left; true when either is there.
  bool wait_for_news(int peer, double seconds);

  /// A data connection, made by the control thread (from a higher rank) or by a call (to a lower one).
  void add_connection(int peer, Descriptor);
  int connection(int peer) const;  // -1: none
  /// Waits for one from a higher rank, at most `seconds`; -1 after a failure, at the end of the time, or when the peer has left.
  int wait_connection(int peer, double seconds);

  void set_left(int peer);
  bool has_left(int peer) const;

  void set_addresses(uint32_t first, const std::vector<std::string>&);
  bool wait_ready(double seconds);  // all addresses known or failed; false at the end of the time
  bool is_ready() const;
  std::string address(int peer) const;

  Activity activity() const;
  void begin_call(uint8_t operation, uint64_t sequence);
  void end_call();
  void set_place(const char* phase, int64_t step);
  void set_waits_for(int peer) { waits_for_.store(peer, std::memory_order_relaxed); }

 private:
  bool all_addresses() const;
  const int rank_, world_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> failed_{false};
  std::atomic<int> waits_for_{-1};
  std::string reason_;
  Descriptor wake_;
  std::vector<Descriptor> connections_;
  std::vector<bool> left_;
  std::vector<std::string> addresses_;
  Activity activity_;
};

}  // namespace longlora::dist
