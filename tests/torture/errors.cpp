// Every I/O call of a save and of an export fails once, with each errno of the table; interruptions and short transfers stay invisible.
#include <errno.h>
#include <fmt/format.h>

#include <array>
#include <string_view>

#include "longlora/core/error.h"
#include "torture/scenario.h"

namespace longlora::torture {
namespace {

constexpr std::array<int, 6> kErrors{EIO, ENOSPC, EDQUOT, EROFS, ESTALE, EMFILE};
constexpr std::array<std::string_view, 9> kMustFail{"write",     "pwrite", "fsync",     "fdatasync", "fallocate",
                                                    "ftruncate", "rename", "renameat2", "mkdir"};
constexpr std::array<std::string_view, 6> kMayBeTolerated{"open", "openat", "close", "pread", "flock", "getdents"};
constexpr std::array<std::string_view, 5> kInterruptible{"write", "pwrite", "fsync", "fallocate", "flock"};

bool contains(std::span<const std::string_view> list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

/// Writes to stderr and to the harness are not part of the save.
bool is_own_output(const Call& call, std::string_view name) {
  return name == "write" && (call.first_argument == 2 || call.first_argument == kReportDescriptor);
}

struct Case {
  const char* name;
  Start start;
  char done;  // reported when the result must stand
  std::function<int(const Report&)> body;
};

void check_state(const Arena& arena, const Case& test, const Outcome& outcome, const std::string& label, Score& score) {
  const bool done = outcome.reports.find(test.done) != std::string::npos;
  if (test.done == 'E') {
    const bool exists = std::filesystem::exists(arena.run() / "model");
    if (exists && !export_is_complete(arena.run())) score.loss(label + ": the target is half written");
    if (done && !exists) score.loss(label + ": a reported export is gone");
    return;
  }
  const int64_t highest = highest_complete(arena.checkpoints(), true);
  if (highest < (done ? 3 : 2)) score.loss(fmt::format("{}: highest complete step {}", label, highest));
  if (has_prefix(arena.checkpoints(), "bad-")) score.loss(label + ": an I/O error was taken for damage");
  if (outcome.code != 0 && has_prefix(arena.checkpoints(), "tmp-")) score.loss(label + ": the temporary folder stays");
}

/// After the result is reported only a warning may follow (rotation); before it the code is 74, or the fault was harmless.
void check_code(const Case& test, const Outcome& outcome, const std::string& label, Score& score) {
  const bool done = outcome.reports.find(test.done) != std::string::npos;
  const int io = exit_code(ErrorKind::io).code;
  const bool right = done ? outcome.code == 0 : outcome.code == io;
  if (!right) score.wrong_code(fmt::format("{}: ended with {}", label, outcome.code));
}

void fail_everywhere(const Arena& arena, const Case& test, Score& score) {
  prepare(arena, test.start);
  arena.reset();
  const Outcome whole = run_traced(test.body);
  const int64_t before = score.faults;
  bool reported = false;
  for (int64_t call = 0; call < static_cast<int64_t>(whole.calls.size()); ++call) {
    const Call& entered = whole.calls[static_cast<size_t>(call)];
    const std::string name = name_of_call(entered.number).value_or("");
    if (is_own_output(entered, name)) {
      reported = reported || entered.first_argument == kReportDescriptor;
      continue;
    }
    const bool must_fail = contains(kMustFail, name), may_fail = contains(kMayBeTolerated, name);
    for (const int error_number : kErrors) {
      if (!must_fail && !may_fail) break;
      const std::string label = fmt::format("error:{}:{} {} {}", test.name, call, name, strerrorname_np(error_number));
      arena.reset();
      const Outcome outcome = run_traced(test.body, {.kind = FaultKind::fail, .call = call, .error_number = error_number});
      ++score.faults;
      check_code(test, outcome, label, score);
      if (must_fail && !reported && outcome.code == 0) score.wrong_code(label + ": the failure went unnoticed");
      check_state(arena, test, outcome, label, score);
    }
  }
  fmt::print("errors {}: {} injected\n", test.name, score.faults - before);
}

void interrupt_everywhere(const Arena& arena, const Case& test, Score& score) {
  prepare(arena, test.start);
  arena.reset();
  const Outcome whole = run_traced(test.body);
  const int64_t before = score.faults;
  for (int64_t call = 0; call < static_cast<int64_t>(whole.calls.size()); ++call) {
    const Call& entered = whole.calls[static_cast<size_t>(call)];
    const std::string name = name_of_call(entered.number).value_or("");
    if (is_own_output(entered, name) || !contains(kInterruptible, name)) continue;
    std::vector<Fault> faults{{.kind = FaultKind::fail, .call = call, .error_number = EINTR}};
    if (name == "write") faults.push_back({.kind = FaultKind::fail, .call = call, .error_number = EAGAIN});
    if (name == "write" || name == "pread") faults.push_back({.kind = FaultKind::short_transfer, .call = call});
    for (const Fault& fault : faults) {
      const std::string label = fmt::format("interrupt:{}:{} {} {}", test.name, call, name, fault.error_number);
      arena.reset();
      const Outcome outcome = run_traced(test.body, fault);
      ++score.faults;
      if (outcome.code != 0) score.wrong_code(fmt::format("{}: ended with {}", label, outcome.code));
      check_state(arena, test, outcome, label, score);
    }
  }
  fmt::print("interruptions {}: {} injected\n", test.name, score.faults - before);
}

}  // namespace

void fail_every_call(Score& score) {
  const Arena arena;
  const std::array<Case, 2> cases{
      Case{"save", Start::two_steps, 'S', [&](const Report& r) { return save_body(arena.run(), 3, 2, r); }},
      Case{"export", Start::export_leftover, 'E', [&](const Report& r) { return export_body(arena.run(), r); }}};
  for (const Case& test : cases) {
    fail_everywhere(arena, test, score);
    interrupt_everywhere(arena, test, score);
  }
}

}  // namespace longlora::torture
