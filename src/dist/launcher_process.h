#pragma once
// Starting a rank's process so that it cannot outlive the launcher, and the signals of the launcher itself.
#include <signal.h>
#include <sys/types.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dist/descriptor.h"
#include "longlora/dist/launch_info.h"

namespace longlora::dist {

struct Pipe {
  Descriptor read, write;  // both close on exec
};
Pipe make_pipe();
void make_nonblocking(const Descriptor&);

/// Takes the stop signals and SIGCHLD while it lives, as bytes of a pipe that a poll can wait for. One at a time in a process.
/// SIGHUP stays ignored where it was (nohup).
class SignalPipe {
 public:
  SignalPipe();
  ~SignalPipe();
  SignalPipe(const SignalPipe&) = delete;
  int descriptor() const { return pipe_.read.get(); }
  /// The next stop signal that has come; nullopt when none is left. SIGCHLD is only a wake-up.
  std::optional<int> next_stop_signal();
  /// Waits; true as soon as a stop signal came.
  bool stop_within(double seconds);

 private:
  Pipe pipe_;
  struct Saved;
  std::vector<Saved> saved_;
  sigset_t old_mask_;
};

/// A process of its own that kills every watched process group when the launcher is gone, however it went: the parent-death signal
/// reaches only the launcher's children, not theirs.
class Guard {
 public:
  Guard();
  ~Guard();  // the groups that are still watched are killed
  Guard(const Guard&) = delete;
  void watch(pid_t group) { tell(group); }
  void forget(pid_t group) { tell(-group); }

 private:
  void tell(int32_t message);
  Descriptor to_guard_;
  pid_t pid_ = -1;
};

struct Spawned {
  pid_t pid = -1;              // also the number of its process group
  std::array<Pipe, 2> output;  // only the reading ends are open: standard output, standard error; non-blocking
};
/// Own process group, killed with the launcher's thread, standard input empty, default signal actions, no inherited descriptor.
/// ErrorKind::missing, permission or io naming the program when it cannot be executed.
Spawned spawn(const std::vector<std::string>& command, const Environment&);

/// Descriptors 0, 1, 2 exist afterwards, so that no pipe of ours takes their numbers.
void hold_standard_descriptors();

}  // namespace longlora::dist
