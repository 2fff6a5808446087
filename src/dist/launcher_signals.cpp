// Descriptors, the signals of the launcher, and the guard process.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include "dist/launcher_process.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr int kTaken[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};
std::atomic<int> signal_descriptor{-1};

void write_signal(int signal) {
  const int saved = errno;
  const char byte = static_cast<char>(signal);
  [[maybe_unused]] const ssize_t ignored = ::write(signal_descriptor.load(), &byte, 1);  // a full pipe already wakes the loop
  errno = saved;
}

constexpr size_t kMaxGroups = 4096;

[[noreturn]] void guard_until_closed(int from_launcher) {
  ::setpgid(0, 0);  // Ctrl-C of the terminal is for the launcher
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD}) ::signal(signal, SIG_IGN);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::close(standard);
  static int32_t groups[kMaxGroups];
  size_t count = 0;
  for (int32_t message;;) {
    const ssize_t n = ::read(from_launcher, &message, sizeof message);
    if (n < 0 && errno == EINTR) continue;
    if (n != sizeof message) break;
    if (message > 0 && count < kMaxGroups) groups[count++] = message;
    if (message < 0)
      for (size_t i = 0; i < count; ++i)
        if (groups[i] == -message) groups[i--] = groups[--count];
  }
  for (size_t i = 0; i < count; ++i) ::kill(-groups[i], SIGKILL);
  ::_exit(0);
}

}  // namespace

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail_errno(errno, "pipe", "process start");
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

void make_nonblocking(const Descriptor& d) { ::fcntl(d.get(), F_SETFL, ::fcntl(d.get(), F_GETFL) | O_NONBLOCK); }

void hold_standard_descriptors() {
  for (int d = 0; d <= 2; ++d)
    if (::fcntl(d, F_GETFD) < 0 && ::open("/dev/null", d == 0 ? O_RDONLY : O_WRONLY) < 0) fail_errno(errno, "open", "/dev/null");
}

struct SignalPipe::Saved {
  int signal;
  struct sigaction action;
};

SignalPipe::SignalPipe() : pipe_(make_pipe()) {
  make_nonblocking(pipe_.read);
  make_nonblocking(pipe_.write);
  LONGLORA_INVARIANT(signal_descriptor.exchange(pipe_.write.get()) == -1);
  for (const int signal : kTaken) {
    struct sigaction action {
    }, old{};
    action.sa_handler = write_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(signal, nullptr, &old);
    if (signal == SIGHUP && old.sa_handler == SIG_IGN) continue;
    ::sigaction(signal, &action, nullptr);
    saved_.push_back({signal, old});
  }
  sigset_t taken;
  sigemptyset(&taken);
  for (const int signal : kTaken) sigaddset(&taken, signal);
  pthread_sigmask(SIG_UNBLOCK, &taken, &old_mask_);  // whoever started us may have had them blocked
}

SignalPipe::~SignalPipe() {
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  for (const Saved& saved : saved_) ::sigaction(saved.signal, &saved.action, nullptr);
  signal_descriptor = -1;
}

std::optional<int> SignalPipe::next_stop_signal() {
  for (char byte; ::read(pipe_.read.get(), &byte, 1) == 1;)
    if (byte != SIGCHLD) return byte;
  return std::nullopt;
}

bool SignalPipe::stop_within(double seconds) {
  const double end = monotonic_seconds() + seconds;
  for (;;) {
    if (next_stop_signal()) return true;
    const double left = end - monotonic_seconds();
    if (left <= 0) return false;
    pollfd wait{.fd = descriptor(), .events = POLLIN, .revents = 0};
    ::poll(&wait, 1, static_cast<int>(left * 1000) + 1);
  }
}

Guard::Guard() {
  Pipe pipe = make_pipe();
  pid_ = ::fork();
  if (pid_ < 0) fail_errno(errno, "fork", "guard process");
  if (pid_ == 0) {
    ::close(pipe.write.get());
    guard_until_closed(pipe.read.get());
  }
  to_guard_ = std::move(pipe.write);
}

Guard::~Guard() {
  to_guard_.reset();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Guard::tell(int32_t message) {
  while (::write(to_guard_.get(), &message, sizeof message) < 0 && errno == EINTR) {
  }
}

}  // namespace longlora::dist
