#include "dist/launcher_world.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

bool stopped_and_saved(int code) { return kind_of_code(code) == ErrorKind::preempted; }

int code_of(const siginfo_t& info) { return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status; }

}  // namespace

struct World::Rank {
  int number;
  RankOutput output;
  Spawned process;
  bool leader_ended = false;
  bool gone = false;        // neither leader nor remains of its group
  bool terminated = false;  // a signal of the teardown went out to it
  bool open[2] = {true, true};

  Rank(int rank, const LauncherOptions& options, Terminal& terminal) : number(rank), output(options, rank, terminal) {}

  void read_stream(size_t stream) {
    if (open[stream] && !output.read_from(process.output[stream].read, static_cast<int>(stream))) open[stream] = false;
  }
};

World::World(const LauncherOptions& options, const StartIdentity& identity, const std::vector<std::string>& command, SignalPipe& signals,
             Guard& guard, Terminal& terminal)
    : options_(options), signals_(signals), guard_(guard), terminal_(terminal) {
  try {
    for (int local = 0; local < options.ranks_per_node; ++local) {
      auto rank = std::make_unique<Rank>(options.node_rank * options.ranks_per_node + local, options, terminal);
      rank->process = spawn(command, rank_environment(options, identity, local));
      guard_.watch(rank->process.pid);
      ranks_.push_back(std::move(rank));
    }
  } catch (...) {  // no destructor runs for a half-made object
    kill_all();
    throw;
  }
}

World::~World() { kill_all(); }

WorldEnd World::run() {
  while (!all_gone()) {
    wait_for_events();
    take_signals();
    read_output();
    reap();
    check_deadlines();
  }
  end_.cause = root_cause(ends_);
  terminal_.drain(5);
  explain(end_);
  return end_;
}

bool World::all_gone() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->gone; });
}

void World::wait_for_events() {
  std::vector<pollfd> waits = {{.fd = signals_.descriptor(), .events = POLLIN, .revents = 0}};
  if (!terminal_.full()) {  // else the ranks wait too, as they would for the terminal itself
    for (const auto& rank : ranks_)
      for (size_t stream : {0, 1})
        if (!rank->gone && rank->open[stream])
          waits.push_back({.fd = rank->process.output[stream].read.get(), .events = POLLIN, .revents = 0});
  }
  for (const TerminalStream* stream : {&terminal_.out, &terminal_.error})
    if (stream->waiting()) waits.push_back({.fd = stream->descriptor(), .events = POLLOUT, .revents = 0});
  double seconds = 1;
  const double now = monotonic_seconds();
  for (const double deadline : {teardown_deadline_, grace_deadline_})
    if (deadline > 0) seconds = std::clamp(deadline - now, 0.0, seconds);
  // the end of a process that is not our child makes no signal
  if (std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->leader_ended && !rank->gone; }))
    seconds = std::min(seconds, 0.02);
  ::poll(waits.data(), waits.size(), static_cast<int>(seconds * 1000) + 1);
}

void World::read_output() {
  terminal_.out.write_ready();
  terminal_.error.write_ready();
  for (const auto& rank : ranks_)
    for (size_t stream : {0, 1})
      if (!rank->gone && !terminal_.full()) rank->read_stream(stream);
}

void World::take_signals() {
  while (const std::optional<int> signal = signals_.next_stop_signal()) {
    if (end_.stop_signal != 0) {
      if (end_.second_signal == 0)
        terminal_.say(LogLevel::warning, std::string("a second signal (") + ::strsignal(*signal) + "): killing all ranks");
      end_.second_signal = *signal;
      kill_all();
      continue;
    }
    end_.stop_signal = *signal;
    grace_deadline_ = monotonic_seconds() + options_.grace_seconds;
    terminal_.say(LogLevel::notice, std::string(::strsignal(*signal)) + " is passed on to all ranks; a second signal kills them");
    signal_all(*signal);
  }
}

void World::signal_all(int signal) {
  for (const auto& rank : ranks_)
    if (!rank->gone) ::kill(-rank->process.pid, signal);
}

void World::kill_all() {
  for (const auto& rank : ranks_) {
    if (rank->gone) continue;
    ::kill(-rank->process.pid, SIGKILL);
    if (rank->leader_ended) let_go(*rank);  // the rest of its group dies of the signal; nobody waits for it
  }
}

void World::reap() {
  for (const auto& rank : ranks_) {
    if (!rank->leader_ended) reap(*rank);
    if (rank->leader_ended && !rank->gone) reap_remains(*rank);
  }
}

void World::reap(Rank& rank) {
  siginfo_t info{};
  const auto pid = static_cast<id_t>(rank.process.pid);
  if (::waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
  // while the leader is not reaped its group's number belongs to nobody else
  const bool wait_for_group = stopping() && end_.second_signal == 0;
  if (!wait_for_group) ::kill(-rank.process.pid, SIGKILL);
  ::waitid(P_PID, pid, &info, WEXITED);
  for (size_t stream : {0, 1}) rank.read_stream(stream);
  leader_ended(rank, code_of(info));
}

void World::reap_remains(Rank& rank) {
  // orphans of the group are ours since the launcher is a subreaper
  while (::waitpid(-rank.process.pid, nullptr, WNOHANG) > 0) {
  }
  const bool empty = ::kill(-rank.process.pid, 0) != 0 && errno == ESRCH;
  if (!empty && stopping() && end_.second_signal == 0 && !end_.grace_over) return;  // a program under a shell that the signal ended
  if (!empty) ::kill(-rank.process.pid, SIGKILL);
  let_go(rank);
}

void World::let_go(Rank& rank) {
  for (size_t stream : {0, 1}) rank.read_stream(stream);
  rank.output.finish();
  guard_.forget(rank.process.pid);
  rank.gone = true;
}

void World::leader_ended(Rank& rank, int code) {
  rank.leader_ended = true;
  const double now = monotonic_seconds();
  const bool killed_by_us = rank.terminated || end_.grace_over || end_.second_signal != 0;
  ends_.push_back({rank.number, code, now, killed_by_us});
  const bool stopped = stopped_and_saved(code) || (end_.stop_signal != 0 && code == 128 + end_.stop_signal);
  if (code == 0 || killed_by_us) return;
  if (stopped) {
    saved_and_stopped_ = true;
    if (grace_deadline_ == 0) grace_deadline_ = now + options_.grace_seconds;
  } else if (teardown_ == Teardown::none) {
    teardown_ = Teardown::reporting;
    teardown_deadline_ = now + options_.report_seconds;
  }
}

void World::check_deadlines() {
  const double now = monotonic_seconds();
  if (grace_deadline_ > 0 && now >= grace_deadline_ && !all_gone()) {
    terminal_.say(LogLevel::warning, "ranks did not stop in time (--grace) and are killed");
    grace_deadline_ = 0;
    end_.grace_over = true;
    kill_all();
  }
  if (teardown_deadline_ == 0 || now < teardown_deadline_) return;
  const bool term = teardown_ == Teardown::reporting;
  teardown_ = term ? Teardown::terminating : Teardown::killing;
  teardown_deadline_ = term ? now + options_.terminate_seconds : 0;
  for (const auto& rank : ranks_) rank->terminated |= !rank->leader_ended;
  if (term)
    signal_all(SIGTERM);
  else
    kill_all();
}

void World::explain(const WorldEnd& end) const {
  if (end.cause.rank < 0) return;
  const Rank& rank = *ranks_[static_cast<size_t>(end.cause.rank - options_.node_rank * options_.ranks_per_node)];
  if (!stopped_and_saved(end.cause.code) && !rank.output.hidden().empty()) {
    terminal_.say(LogLevel::notice, "last lines of rank " + std::to_string(rank.number) + ":");
    for (const std::string& line : rank.output.hidden()) terminal_.error.add("[rank " + std::to_string(rank.number) + "] ", line);
  }
  const std::string log = rank.output.log_path().string();
  terminal_.say(stopped_and_saved(end.cause.code) ? LogLevel::notice : LogLevel::warning,
                "rank " + std::to_string(rank.number) + " ended first: " + describe_code(end.cause.code) +
                    (log.empty() ? "" : "; all it printed: " + log));
  if (end.cause.code == 128 + SIGKILL && !end.grace_over && end.second_signal == 0) {
    const std::string more = options_.explain_kill ? options_.explain_kill() : "";
    terminal_.say(LogLevel::warning, "a death by SIGKILL that nobody sent is the kernel's out-of-memory killer (see dmesg)" +
                                         (more.empty() ? "" : "; " + more));
  }
}

}  // namespace longlora::dist
