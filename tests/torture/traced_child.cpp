#include "torture/traced_child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace longlora::torture {
namespace {

using Body = std::function<int(const std::function<void(char)>&)>;

[[noreturn]] void fail_call(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) fail_call("pipe");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close(read_end);
    if (write_end >= 0) close(write_end);
  }
  void close_write_end() {
    close(write_end);
    write_end = -1;
  }
  std::string drain() const {
    std::string text;
    std::array<char, 64> buffer{};
    for (ssize_t bytes; (bytes = read(read_end, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), static_cast<size_t>(bytes));
    return text;
  }
};

[[noreturn]] void run_body(const Body& body, int report_end, bool traced) {
  if (!getenv("TORTURE_VERBOSE")) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 2);
    close(null);
  }
  dup2(report_end, kReportDescriptor);
  if (traced) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
  }
  const auto report = [](char c) {
    if (write(kReportDescriptor, &c, 1) != 1) _exit(99);
  };
  _exit(body(report));
}

pid_t start(const Body& body, const Pipe& pipe, bool traced) {
  const pid_t child = fork();
  if (child < 0) fail_call("fork");
  if (child == 0) run_body(body, pipe.write_end, traced);
  return child;
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

user_regs_struct registers_of(pid_t child) {
  user_regs_struct registers{};
  if (ptrace(PTRACE_GETREGS, child, nullptr, &registers) != 0) fail_call("PTRACE_GETREGS");
  return registers;
}

void enter_call(pid_t child, user_regs_struct registers, const Fault& fault) {
  if (fault.kind == FaultKind::kill_before) kill(child, SIGKILL);
  if (fault.kind == FaultKind::fail) registers.orig_rax = static_cast<unsigned long long>(-1);  // no call at all
  if (fault.kind == FaultKind::short_transfer) registers.rdx = registers.rdx > 1 ? registers.rdx / 2 : 1;
  if (fault.kind == FaultKind::fail || fault.kind == FaultKind::short_transfer) ptrace(PTRACE_SETREGS, child, nullptr, &registers);
}

void leave_call(pid_t child, user_regs_struct registers, const Fault& fault) {
  if (fault.kind == FaultKind::kill_after) kill(child, SIGKILL);
  if (fault.kind != FaultKind::fail) return;
  registers.rax = static_cast<unsigned long long>(-static_cast<long long>(fault.error_number));
  ptrace(PTRACE_SETREGS, child, nullptr, &registers);
}

}  // namespace

Outcome run_traced(const Body& body, const Fault& fault) {
  Pipe pipe;
  const pid_t child = start(body, pipe, true);
  pipe.close_write_end();
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) throw std::runtime_error("the traced child did not stop; is ptrace allowed here?");
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  Outcome outcome;
  bool inside = false;
  for (int signal = 0;;) {
    if (ptrace(PTRACE_SYSCALL, child, nullptr, signal) != 0 && errno != ESRCH) fail_call("PTRACE_SYSCALL");
    if (waitpid(child, &status, 0) != child) fail_call("waitpid");
    if (!WIFSTOPPED(status)) break;
    signal = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
    if (signal != 0) continue;
    const user_regs_struct registers = registers_of(child);
    const bool is_target = fault.call == static_cast<int64_t>(outcome.calls.size()) - (inside ? 1 : 0);
    if (!inside) outcome.calls.push_back({static_cast<int64_t>(registers.orig_rax), static_cast<int64_t>(registers.rdi)});
    if (is_target && !inside) enter_call(child, registers, fault);
    if (is_target && inside) leave_call(child, registers, fault);
    inside = !inside;
  }
  outcome.code = code_of(status);
  outcome.reports = pipe.drain();
  return outcome;
}

Outcome run_child(const Body& body) {
  Pipe pipe;
  const pid_t child = start(body, pipe, false);
  pipe.close_write_end();
  Outcome outcome;
  outcome.reports = pipe.drain();
  int status = 0;
  waitpid(child, &status, 0);
  outcome.code = code_of(status);
  return outcome;
}

std::optional<std::string> name_of_call(int64_t number) {
  switch (number) {
    case SYS_write:
      return "write";
    case SYS_pwrite64:
      return "pwrite";
    case SYS_pread64:
      return "pread";
    case SYS_fsync:
      return "fsync";
    case SYS_fdatasync:
      return "fdatasync";
    case SYS_fallocate:
      return "fallocate";
    case SYS_ftruncate:
      return "ftruncate";
    case SYS_rename:
      return "rename";
    case SYS_renameat2:
      return "renameat2";
    case SYS_open:
      return "open";
    case SYS_openat:
      return "openat";
    case SYS_mkdir:
      return "mkdir";
    case SYS_close:
      return "close";
    case SYS_flock:
      return "flock";
    case SYS_getdents64:
      return "getdents";
    case SYS_unlinkat:
      return "unlinkat";
    default:
      return std::nullopt;
  }
}

}  // namespace longlora::torture
