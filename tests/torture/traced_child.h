#pragma once
// One child process under ptrace: its system calls are counted, and one of them can be cut short, made to fail, or be its last.
// Only for x86-64 Linux, only for children with one thread.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace longlora::torture {

enum class FaultKind { none, kill_before, kill_after, fail, short_transfer };

struct Fault {
  FaultKind kind = FaultKind::none;
  int64_t call = -1;     // number of the system call, from 0
  int error_number = 0;  // for `fail`
};

struct Call {
  int64_t number;
  int64_t first_argument;
};

struct Outcome {
  int code = -1;            // exit code; 128 + n for death by signal n
  std::string reports;      // characters the child wrote with report()
  std::vector<Call> calls;  // every call it entered
};

/// Runs `body` in a traced child whose stderr goes to /dev/null; `report(c)` inside the body sends one character to the parent.
Outcome run_traced(const std::function<int(const std::function<void(char)>& report)>& body, const Fault& fault = {});

/// The same without tracing.
Outcome run_child(const std::function<int(const std::function<void(char)>& report)>& body);

/// "write", "fsync", ... of the calls that faults are injected into; nullopt for others.
std::optional<std::string> name_of_call(int64_t number);

/// The descriptor that report() writes to.
constexpr int kReportDescriptor = 200;

}  // namespace longlora::torture
