#include "longlora/train/stop_request.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <string_view>

#include "longlora/core/log.h"

namespace longlora {
namespace {

constexpr int kStopSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
std::atomic<int> first_signal{0};

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : kStopSignals) sigaddset(&set, signal);
  return set;
}

std::string signal_text(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "signal " + std::to_string(signal);
  }
}

/// Restores the default action and raises the signal in this thread: the process ends with 128 + n as a shell sees it.
void end_at_once(int number) {
  static constexpr std::string_view kLine =
      "longlora-train: error[forced]: second signal, the step was not finished (process); run the same command again, the last checkpoint "
      "stands\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kLine.data(), kLine.size());
  ::signal(number, SIG_DFL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
  ::raise(number);
}

void wait_for_signals(const std::stop_token& stop) {
  const sigset_t set = stop_signals();
  const timespec tick{.tv_sec = 0, .tv_nsec = 200'000'000};
  while (!stop.stop_requested()) {
    const int signal = sigtimedwait(&set, nullptr, &tick);
    if (signal <= 0) continue;
    int none = 0;
    if (!first_signal.compare_exchange_strong(none, signal)) end_at_once(signal);
  }
}

}  // namespace

void ignore_write_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
}

void block_stop_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopRequest::StopRequest(std::filesystem::path output_dir) : stop_file_(std::move(output_dir) / "STOP") {
  std::error_code ignored;
  if (std::filesystem::remove(stop_file_, ignored)) log_notice("an old file {} was removed", stop_file_.string());
  waiter_ = std::jthread(wait_for_signals);
}

bool StopRequest::requested() {
  if (!reason_.empty()) return true;
  if (const int signal = first_signal.load()) {
    reason_ = signal_text(signal);
    return true;
  }
  std::error_code error;
  if (!std::filesystem::exists(stop_file_, error)) return false;
  std::filesystem::remove(stop_file_, error);
  reason_ = "file STOP";
  return true;
}

}  // namespace longlora
