#pragma once
// Ranks as forked processes of one test: a real world over Unix sockets (or TCP on the loopback), with what each rank threw as text.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/dist/join.h"
#include "support/temp_dir.h"

namespace longlora::test {

struct RankEnd {
  int code = -1;        // exit code; 128 + n: killed by signal n; 0: the body returned
  std::string message;  // Error::what(), or what the body returned
  double seconds = 0;   // from the fork to the end
};

/// Settings of one rank, for a test to change before the rank joins.
struct RankSetup {
  dist::LaunchInfo launch;
  dist::JoinOptions options;
};

class ProcessRanks {
 public:
  using Body = std::function<std::string(dist::Communicator&)>;
  using Change = std::function<void(RankSetup&)>;

  explicit ProcessRanks(int size) : size_(size) {
    static std::atomic<int> count{0};
    run_id_ = "test-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
    ::setenv("XDG_RUNTIME_DIR", folder_.path().c_str(), 1);
  }
  ~ProcessRanks() {
    for (const Child& child : children_)
      if (child.pid > 0) ::kill(child.pid, SIGKILL), ::waitpid(child.pid, nullptr, 0);
  }

  ProcessRanks& change(Change change) {
    change_ = std::move(change);
    return *this;
  }
  const std::string& run_id() const { return run_id_; }
  const TempDir& folder() const { return folder_; }
  pid_t pid(size_t child) const { return children_[child].pid; }

  RankSetup setup_of(int rank) const {
    RankSetup setup;
    setup.launch.source = dist::LaunchSource::flags;
    setup.launch.rank = setup.launch.local_rank = rank;
    setup.launch.world_size = setup.launch.local_world_size = size_;
    setup.launch.run_id = run_id_;
    setup.options.setup_seconds = 30;
    setup.options.collective_seconds = 60;
    if (change_) change_(setup);
    return setup;
  }

  void start_all(const Body& body) {
    for (int rank = 0; rank < size_; ++rank) start(rank, body);
  }
  void start(int rank, const Body& body) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    const pid_t pid = ::fork();
    if (pid < 0) throw std::runtime_error("fork");
    if (pid == 0) {
      ::close(ends[0]);
      run_child(rank, body, ends[1]);
    }
    ::close(ends[1]);
    children_.push_back({pid, ends[0], monotonic_seconds()});
  }

  /// In order of the starts. A rank that has not ended after `seconds` is killed: code 137.
  std::vector<RankEnd> wait(double seconds = 60) {
    const double deadline = monotonic_seconds() + seconds;
    std::vector<RankEnd> ends(children_.size());
    for (size_t left = children_.size(); left > 0; ::usleep(2000)) {
      for (size_t i = 0; i < children_.size(); ++i) left -= reap(children_[i], ends[i], monotonic_seconds() > deadline) ? 1 : 0;
    }
    return ends;
  }

 private:
  struct Child {
    pid_t pid;
    int output;
    double started;
  };
  [[noreturn]] void run_child(int rank, const Body& body, int output) const {
    RankEnd end{0, "", 0};
    configure_log({.minimum = LogLevel::warning});
    try {
      const RankSetup setup = setup_of(rank);
      const std::unique_ptr<dist::Communicator> communicator = dist::join_world(setup.launch, setup.options);
      end.message = body(*communicator);
    } catch (const Error& error) {
      end = {exit_code(error.kind).code, error.what(), 0};
    } catch (const std::exception& error) {
      end = {70, error.what(), 0};
    }
    [[maybe_unused]] const ssize_t written = ::write(output, end.message.data(), end.message.size());
    ::_exit(end.code);
  }
  static bool reap(Child& child, RankEnd& end, bool is_late) {
    if (child.pid <= 0) return false;
    int status = 0;
    if (is_late) ::kill(child.pid, SIGKILL);
    if (::waitpid(child.pid, &status, WNOHANG) != child.pid) return false;
    child.pid = 0;
    end.seconds = monotonic_seconds() - child.started;
    end.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(child.output, buffer, sizeof buffer)) > 0;) end.message.append(buffer, static_cast<size_t>(got));
    ::close(child.output);
    return true;
  }

  const int size_;
  std::string run_id_;
  TempDir folder_;
  Change change_;
  std::vector<Child> children_;
};

}  // namespace longlora::test
