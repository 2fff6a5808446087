#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fstream>

#include "longlora/core/clock.h"
#include "longlora/core/log.h"
#include "longlora/core/text.h"
#include "longlora/train/environment.h"
#include "longlora/train/observers.h"

namespace longlora {
namespace {

bool bar_is_shown = false;

/// A closed or full stdout or stderr never stops a run, so results are ignored.
void put(int descriptor, std::string_view text) { [[maybe_unused]] const ssize_t ignored = ::write(descriptor, text.data(), text.size()); }

void clear_bar() {
  if (bar_is_shown) put(STDERR_FILENO, "\r\x1b[K");
  bar_is_shown = false;
}

std::string duration(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{}m{:02}s", s / 60, s % 60) : fmt::format("{}s", s);
}

std::string bar(int64_t done, int64_t total) {
  constexpr int64_t kCells = 16;
  const int64_t filled = total > 0 ? std::min(kCells, done * kCells / total) : 0;
  return "[" + std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kCells - filled), '.') + "]";
}

}  // namespace

ProgressObserver::ProgressObserver(ProgressMode mode, int64_t every, int64_t total_steps, std::filesystem::path log_file)
    : mode_(mode), every_(std::max<int64_t>(1, every)), total_steps_(total_steps), log_file_(std::move(log_file)) {
  if (mode_ == ProgressMode::automatic) mode_ = ::isatty(STDERR_FILENO) != 0 ? ProgressMode::bar : ProgressMode::line;
  if (mode_ == ProgressMode::bar) set_before_log(&clear_bar);
}

ProgressObserver::~ProgressObserver() { clear_bar(); }

std::string ProgressObserver::line(const StepReport& r) const {
  const double left = seconds_per_step_ * static_cast<double>(std::max<int64_t>(0, total_steps_ - r.step));
  return fmt::format("step {}/{} loss {:.4f} norm {:.3f} lr {:.2e} {:.0f} tok/s {} left {}{}", r.step, total_steps_, r.loss, r.grad_norm,
                     r.learning_rate, static_cast<double>(r.tokens) / r.seconds, duration(left),
                     human_bytes(static_cast<uint64_t>(resident_bytes())), r.outcome == Outcome::skipped ? " SKIPPED" : "");
}

void ProgressObserver::after_step(const StepReport& report) {
  seconds_per_step_ = seconds_per_step_ == 0 ? report.seconds : 0.9 * seconds_per_step_ + 0.1 * report.seconds;
  const std::string text = line(report);
  const bool due = report.step % every_ == 0 || report.step == total_steps_ || report.outcome == Outcome::skipped;
  if (due) std::ofstream(log_file_, std::ios::app) << wall_clock_iso8601() << " " << text << "\n";
  if (mode_ == ProgressMode::line && due) put(STDOUT_FILENO, text + "\n");
  if (mode_ == ProgressMode::bar) {
    put(STDERR_FILENO, "\r\x1b[K" + bar(report.step, total_steps_) + " " + text.substr(0, 100));
    bar_is_shown = true;
  }
}

void ProgressObserver::after_last_step() {
  if (bar_is_shown) put(STDERR_FILENO, "\n");
  bar_is_shown = false;
}

}  // namespace longlora
