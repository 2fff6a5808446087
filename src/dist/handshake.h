#pragma once
// Both sides of the three-step handshake. The Gate is the server: it owns the listening socket and the connections that have not yet
// proved anything, all bounded. introduce() is the client.
#include <poll.h>

#include <array>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dist/frame.h"
#include "dist/socket.h"

namespace longlora::dist {

/// Keys by purpose, derived from the secret, so that a proof for one purpose is none for the other.
struct RunKeys {
  explicit RunKeys(const Digest& secret);
  Digest control, pair;
};

class Gate {
 public:
  struct Rules {
    RunKeys keys;
    std::string run_id;
    size_t max_pending = 16;
    /// A verified hello that must not enter: the text that both sides print; nullopt lets it in.
    std::function<std::optional<std::string>(const Hello&, bool is_pair)> refuse;
    std::function<void(Descriptor, const Hello&, bool is_pair)> enter;
  };
  Gate(Descriptor listener, Rules);
  /// Appends what to poll for.
  void watch(std::vector<pollfd>&) const;
  /// Serves every connection that can go on, then accepts at most a few new ones. Never blocks.
  void serve();
  /// Seconds until the next pending connection is overdue; at most `most`.
  double next_event_seconds(double most) const;

 private:
  struct Pending {
    Descriptor socket;
    Digest nonce{};
    std::array<char, kMaxUnverifiedBytes> received;
    size_t bytes = 0;
    double deadline = 0;
  };
  bool advance(Pending&);  // false: done with it
  bool judge(Pending&, const Frame&);
  void refuse(const Pending&, Reason, const std::string& text) const;
  void accept_some();
  void stranger(const char* what);

  Descriptor listener_;
  Rules rules_;
  std::deque<Pending> pending_;
  uint64_t strangers_ = 0;
  double last_warning_ = -1e9, paused_until_ = 0;
};

struct Introduction {
  enum class Answer { welcome, refused, closed } answer = Answer::closed;
  Refusal refusal;
};
/// `purpose` is hello or pair_hello. Proves `hello` (nonce and proof are filled here) on a connected socket and verifies the server. A
/// server that answers nonsense, or nothing for `seconds`, counts as closed. A wake-up on `wake` ends it too.
Introduction introduce(int socket, FrameType purpose, const Digest& key, Hello hello, double seconds, int wake = -1);

}  // namespace longlora::dist
