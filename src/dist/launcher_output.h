#pragma once
// What ranks print: whole lines on the launcher's terminal, everything in a file per rank.
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "dist/launcher_process.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"
#include "longlora/dist/launcher.h"

namespace longlora::dist {

/// Bytes to lines. A line longer than 64 KiB is given in pieces of that size.
class LineSplitter {
 public:
  template <class F>
  void feed(std::string_view bytes, F&& on_line) {
    partial_.append(bytes);
    size_t start = 0;
    for (size_t end; (end = partial_.find('\n', start)) != std::string::npos; start = end + 1)
      on_line(std::string_view(partial_).substr(start, end - start));
    for (; partial_.size() - start > kMaxLineBytes; start += kMaxLineBytes)
      on_line(std::string_view(partial_).substr(start, kMaxLineBytes));
    partial_.erase(0, start);
  }
  template <class F>
  void finish(F&& on_line) {
    if (!partial_.empty()) on_line(std::string_view(partial_));
    partial_.clear();
  }

 private:
  static constexpr size_t kMaxLineBytes = 64 << 10;
  std::string partial_;
};

/// Standard output or standard error of the launcher. A reader that stands still (a pager, a full pipe) holds up lines, never the loop.
class TerminalStream {
 public:
  explicit TerminalStream(int descriptor) : descriptor_(descriptor) {}
  void add(std::string_view prefix, std::string_view line);
  int descriptor() const { return descriptor_; }
  bool waiting() const { return !pending_.empty(); }
  bool full() const { return pending_.size() > kMaxPendingBytes; }
  /// Writes what can be written without waiting. A closed reader is forgotten.
  void write_ready();

 private:
  static constexpr size_t kMaxPendingBytes = 1 << 20;
  int descriptor_;
  bool broken_ = false;
  std::string pending_;
};

struct Terminal {
  TerminalStream out{1}, error{2};
  bool full() const { return out.full() || error.full(); }
  /// Waits for slow readers, at most `seconds`.
  void drain(double seconds);
  /// A line of the launcher itself, after what the ranks have printed so far.
  void say(LogLevel, std::string_view text);
};

/// launch_rank_N.log: opened when its folder is there; until then lines are held, at most 1 MiB. A failed write ends the file with one
/// warning.
class RankLog {
 public:
  RankLog(const LauncherOptions&, int rank);
  void add(std::string_view line);
  void write_held();
  /// Empty while there is no file.
  std::filesystem::path path() const { return file_ ? path_ : std::filesystem::path(); }

 private:
  void open_if_possible();
  std::filesystem::path path_;
  std::optional<OutputFile> file_;
  std::string held_;
  bool given_up_ = false;
};

/// Does a line of a rank that is not shown speak of trouble?
bool is_warning_or_error(std::string_view line);

class RankOutput {
 public:
  RankOutput(const LauncherOptions&, int rank, Terminal&);
  /// `stream`: 0 standard output, 1 standard error. False at the end of the stream.
  bool read_from(const Descriptor&, int stream);
  void finish();
  /// Last lines that did not reach the terminal.
  const std::deque<std::string>& hidden() const { return hidden_; }
  std::filesystem::path log_path() const { return log_.path(); }

 private:
  void line(std::string_view text, int stream);
  Terminal& terminal_;
  bool shown_;
  std::string prefix_;
  RankLog log_;
  std::array<LineSplitter, 2> splitters_;
  std::deque<std::string> hidden_;
};

}  // namespace longlora::dist
