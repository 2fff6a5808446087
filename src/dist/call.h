#pragma once
// One call of a communicator from its first byte to its last: connections, headers, transfers in both directions, deadline, failure.
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "dist/operation.h"
#include "dist/world.h"

namespace longlora::dist {

/// One direction of a call with one peer: a header, then `bytes` of data.
struct Flow {
  int peer = -1;  // rank in the world
  bool is_output = false;
  DataHeader header;  // to send, or expected
  char* data = nullptr;
  size_t bytes = 0;
  const size_t* available = nullptr;  // output: bytes of `data` that are there so far; null: all
  int socket = -1;
  DataHeader seen;  // input: as received
  size_t header_done = 0, done = 0;
  bool is_finished() const { return header_done == sizeof header && done == bytes; }
};

class Call {
 public:
  /// Throws at once when the run has failed. `peer` (rank in the world, -1: all) and `bytes` go into the flight record.
  Call(World&, Operation, uint64_t channel, uint64_t sequence, int peer, uint64_t bytes);
  ~Call();
  Call(const Call&) = delete;

  DataHeader header(size_t bytes) const;
  /// Moves everything; returns when all flows are finished. Any failure is ErrorKind::peer on all ranks of the run.
  void run(std::span<Flow>);

 private:
  void connect(std::span<Flow>);
  void connect_lower(int peer);
  bool advance(Flow&);
  bool send(Flow&);
  bool receive(Flow&);
  void wait(std::span<Flow>);
  void spend(double seconds, int peer);
  std::string name() const;
  [[noreturn]] void mismatch(const Flow&);
  [[noreturn]] void connection_lost(int peer);
  [[noreturn]] void deadline_reached(int peer);
  [[noreturn]] void fail_all(const std::string& reason);
  [[noreturn]] void throw_failure();

  World& world_;
  std::unique_lock<std::mutex> lock_;
  const Operation operation_;
  const uint64_t channel_, sequence_;
  double seconds_left_;
  uint64_t record_ = 0;
};

}  // namespace longlora::dist
