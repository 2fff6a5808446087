#include "longlora/dist/launcher.h"

#include <sys/prctl.h>

#include <csignal>

#include "dist/endpoint.h"
#include "dist/launcher_world.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

void check(bool good, const char* what, const char* what_to_do) {
  if (!good) fail(ErrorKind::config, what, "longlora-train launch", what_to_do);
}

void check_options(const LauncherOptions& o) {
  constexpr int kMaxLocalRanks = 1024;
  check(!o.command.empty(), "no command to start", "write it after --: longlora-train launch --nproc-per-node 2 -- train -c FILE");
  check(o.ranks_per_node >= 1 && o.ranks_per_node <= kMaxLocalRanks, "--nproc-per-node is not in [1, 1024]", "choose a number of ranks");
  check(o.nodes >= 1 && o.nodes <= kMaxRanks / o.ranks_per_node, "--nnodes is not in range", "choose the number of hosts");
  check(o.node_rank >= 0 && o.node_rank < o.nodes, "--node-rank is not in [0, --nnodes)", "give each host its own number, from 0 on");
  check(o.max_restarts >= 0, "--max-restarts is negative", "0 means: never restart");
  check(o.grace_seconds >= 0, "--grace is negative", "give seconds");
  if (o.endpoint) checked_host("--master-addr", o.endpoint->host);
  if (o.nodes == 1) return;
  check(o.endpoint.has_value(), "several hosts and no endpoint", "give --master-addr HOST --master-port 29500, the same on all hosts");
  check(o.environment.contains("LONGLORA_SECRET") || o.environment.contains("LONGLORA_SECRET_FILE"), "several hosts and no common secret",
        "(umask 077; openssl rand -hex 32 > FILE), then on every host: export LONGLORA_SECRET_FILE=FILE");
}

int exit_code_of(const WorldEnd& end) {
  if (end.second_signal != 0) return 128 + end.second_signal;
  // a rank that did stop, or lost the others, does not speak for those that had to be killed
  const std::optional<ErrorKind> kind = kind_of_code(end.cause.code);
  const bool stopped = kind == ErrorKind::preempted || kind == ErrorKind::peer || end.cause.code == 128 + end.stop_signal;
  return end.grace_over && stopped ? 128 + SIGKILL : end.cause.code;
}

/// Restarts until an end that stays; each start has its own processes, secret and (on one host) run id.
int run_worlds(const LauncherOptions& options, SignalPipe& signals, Guard& guard, Terminal& terminal) {
  RestartRule rule(options.max_restarts, options.first_pause_seconds);
  for (int start = 0;; ++start) {
    const bool again = start > 0 && !options.restart_command.empty();
    World world(options, make_identity(options, start), again ? options.restart_command : options.command, signals, guard, terminal);
    const WorldEnd end = world.run();
    const int code = exit_code_of(end);
    if (code == 0 || end.stop_signal != 0 || end.grace_over || options.max_restarts == 0) return code;
    const std::optional<double> pause = rule.pause_before_restart(code, monotonic_seconds());
    if (!pause) {
      terminal.say(LogLevel::notice, "no restart: " + rule.refusal());
      return code;
    }
    terminal.say(LogLevel::notice, "all ranks start again in " + std::to_string(static_cast<int>(*pause + 0.5)) + " s");
    if (signals.stop_within(*pause)) return code;
  }
}

}  // namespace

int launch(const LauncherOptions& options) {
  check_options(options);
  hold_standard_descriptors();
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  Guard guard;  // before the signals are taken: it must not have their handlers
  SignalPipe signals;
  Terminal terminal;
  const int code = run_worlds(options, signals, guard, terminal);
  terminal.drain(5);
  return code;
}

}  // namespace longlora::dist
