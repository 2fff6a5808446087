#include "dist/launcher_output.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {

void TerminalStream::add(std::string_view prefix, std::string_view line) {
  if (broken_) return;
  pending_.append(prefix).append(line).push_back('\n');
  write_ready();
}

void TerminalStream::write_ready() {
  size_t done = 0;
  while (done < pending_.size()) {
    pollfd ready{.fd = descriptor_, .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, 0) <= 0) break;
    // a pipe that is ready takes PIPE_BUF bytes at once
    const ssize_t n = ::write(descriptor_, pending_.data() + done, std::min<size_t>(pending_.size() - done, PIPE_BUF));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) break;
    if (n <= 0) {
      broken_ = true;
      pending_.clear();
      return;
    }
    done += static_cast<size_t>(n);
  }
  pending_.erase(0, done);
}

void Terminal::drain(double seconds) {
  const double end = monotonic_seconds() + seconds;
  for (TerminalStream* stream : {&out, &error})
    while (stream->waiting() && monotonic_seconds() < end) {
      pollfd ready{.fd = stream->descriptor(), .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, 100);
      stream->write_ready();
    }
}

void Terminal::say(LogLevel level, std::string_view text) {
  drain(1);
  log_line(level, "launch: " + std::string(text));
}

RankLog::RankLog(const LauncherOptions& options, int rank) : given_up_(options.log_folder.empty()) {
  if (given_up_) return;
  path_ = options.log_folder / ("launch_rank_" + std::to_string(rank) + ".log");
  if (options.create_log_folder) create_folders(options.log_folder);
  held_ = "--- " + wall_clock_iso8601() + " started as rank " + std::to_string(rank) + "\n";
}

void RankLog::open_if_possible() {
  std::error_code error;
  if (!file_ && std::filesystem::is_directory(path_.parent_path(), error)) file_ = OutputFile::append(path_);
}

void RankLog::add(std::string_view line) {
  constexpr size_t kMaxHeldBytes = 1 << 20;
  if (given_up_ || held_.size() + line.size() > kMaxHeldBytes) return;
  held_.append(line).push_back('\n');
}

void RankLog::write_held() {
  if (given_up_ || held_.empty()) return;
  try {
    open_if_possible();
    if (!file_) return;
    file_->write_all(held_);
    held_.clear();
  } catch (const Error& error) {  // a log never ends a run
    given_up_ = true;
    log_warning("launch: no more lines go to {}: {}", path_.string(), error.what());
  }
}

bool is_warning_or_error(std::string_view line) {
  std::string lower(line.substr(0, 4096));
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* sign : {"warning", "error", "fatal", "terminate called", "aborted"})
    if (lower.find(sign) != std::string::npos) return true;
  return false;
}

RankOutput::RankOutput(const LauncherOptions& options, int rank, Terminal& terminal)
    : terminal_(terminal),
      shown_(rank == 0 || options.shown == ShownRanks::all),
      prefix_(rank == 0 ? "" : "[rank " + std::to_string(rank) + "] "),
      log_(options, rank) {}

void RankOutput::line(std::string_view text, int stream) {
  constexpr size_t kMaxHiddenLines = 20;
  log_.add(text);
  if (shown_ || is_warning_or_error(text)) {
    (stream == 0 ? terminal_.out : terminal_.error).add(prefix_, text);
    return;
  }
  hidden_.emplace_back(text.substr(0, 1024));
  if (hidden_.size() > kMaxHiddenLines) hidden_.pop_front();
}

bool RankOutput::read_from(const Descriptor& from, int stream) {
  char bytes[16 << 10];
  for (;;) {
    const ssize_t n = ::read(from.get(), bytes, sizeof bytes);
    if (n > 0) {
      splitters_[static_cast<size_t>(stream)].feed({bytes, static_cast<size_t>(n)}, [&](std::string_view text) { line(text, stream); });
      log_.write_held();
      if (n < static_cast<ssize_t>(sizeof bytes) || terminal_.full()) return true;
      continue;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    return false;
  }
}

void RankOutput::finish() {
  for (int stream : {0, 1}) splitters_[static_cast<size_t>(stream)].finish([&](std::string_view text) { line(text, stream); });
  log_.write_held();
}

}  // namespace longlora::dist
