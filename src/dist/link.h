#pragma once
// One verified control connection: frames out through a buffer that never blocks, frames in through one bounded by the largest frame.
#include <optional>
#include <string>

#include "dist/frame.h"
#include "dist/socket.h"

namespace longlora::dist {

class Link {
 public:
  Link(int rank, Descriptor socket);
  int rank() const { return rank_; }
  int descriptor() const { return socket_.get(); }
  void queue(FrameType, std::string_view payload);
  /// Sends what the socket takes. False when the connection is broken.
  bool flush();
  bool has_output() const { return !out_.empty(); }
  /// Reads what is there. False at the end of the connection; next() may still have frames.
  bool fill();
  struct Message {
    FrameType type;
    std::string payload;
  };
  /// The next complete frame; nullopt when there is none. `is_bad` is set by malformed or reordered frames.
  std::optional<Message> next();
  bool is_bad() const { return is_bad_; }
  /// No more output: the other side sees the end after it has read everything.
  void end_output();
  /// descriptor() is -1 afterwards.
  void close() { socket_.reset(); }

  double heard = 0;   // monotonic seconds of the last input
  Activity activity;  // of the last heartbeat
  bool has_listener = false;

 private:
  int rank_;
  Descriptor socket_;
  std::string in_, out_;
  uint32_t next_in_ = 0, next_out_ = 0;
  bool is_bad_ = false;
};

}  // namespace longlora::dist
