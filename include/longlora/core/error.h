#pragma once
// Errors of the whole program: one type, one table of exit codes, one place that turns an error into the end of the process.
//
// Goals: every failure names what (got/expected), where, and what to do; the exit code tells a scheduler what to do next.
// Non-goals: error codes as return values. Who catches an Error tries something else, undoes work, or tells other ranks; the end of the
// process is left to `run_guarded`.

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

/// One kind per exit code (listed for users in docs/config.md, "Exit codes").
enum class ErrorKind {
  usage,          // 64 command line cannot be understood
  data,           // 65 content of data, weights, tokenizer, adapter or config.json is bad
  missing,        // 66 an input is not there
  internal,       // 70 an invariant of ours is broken
  memory,         // 71 host or device memory, predicted or met
  busy,           // 73 output held by another run, or export target exists
  io,             // 74 I/O error, disk full
  preempted,      // 75 stopped on request, state saved
  peer,           // 76 rank lost, hung or wrong
  permission,     // 77 access refused
  config,         // 78 configuration
  numeric,        // 79 non-finite loss or gradient
  no_checkpoint,  // 80 checkpoints exist but none is valid
  mismatch,       // 81 resume with other frozen settings
};

struct ExitCode {
  ErrorKind kind;
  int code;
  std::string_view name;      // the NAME in `error[NAME]`
  bool retry_unchanged;       // may a scheduler run the same command again?
  std::string_view sentence;  // for --help and docs
};

/// The table, in order of `code`. Every kind has exactly one row.
std::span<const ExitCode> exit_codes();
const ExitCode& exit_code(ErrorKind);
/// The kind that an exit code stands for; nullopt for a code that is not in the table.
std::optional<ErrorKind> kind_of_code(int64_t code);

/// A failure that a stranger can act on. `details` are printed before the final line (at most 20, one a line).
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string what_happened, std::string where, std::string what_to_do, std::vector<std::string> details = {});

  ErrorKind kind;
  std::string what_happened;  // got and expected
  std::string where;          // file:line:column, file: byte N, key, tensor, rank R step S
  std::string what_to_do;     // a key, a command or a number to change
  std::vector<std::string> details;

  /// "WHAT (WHERE); WHAT TO DO", unescaped and unshortened.
  const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  std::string sentence_;
};

/// Throws Error. All three texts are mandatory.
[[noreturn]] void fail(ErrorKind, std::string what_happened, std::string where, std::string what_to_do,
                       std::vector<std::string> details = {});

/// The last stderr line: `longlora-train: error[NAME]: WHAT (WHERE); WHAT TO DO`, escaped, at most 240 bytes;
/// a too long WHAT is shortened in the middle, WHAT TO DO never.
std::string error_line(const Error&);

/// Control characters and invalid UTF-8 as \xNN; longer than `max_bytes` is shortened in the middle with "...".
std::string escape(std::string_view text, size_t max_bytes = 120);

/// bad_alloc, an allocator's message, or an Error of kind memory.
bool is_out_of_memory(const std::exception&);

/// What `run_guarded` tells observers of the end (exit.json is written by this hook). Best effort: exceptions are swallowed.
using EndHook = std::function<void(const Error*, int exit_code)>;
void set_end_hook(EndHook);

/// Runs `body`, turns an exception that leaves it into the final line and the exit code.
/// bad_alloc and allocators' out-of-memory errors become 71, other foreign exceptions 70.
int run_guarded(const std::function<int()>& body) noexcept;

/// Turns an errno of a file operation into the right kind: ENOENT missing, EACCES/EPERM/EROFS permission (EROFS: io), else io.
[[noreturn]] void fail_errno(int error_number, std::string_view operation, std::string_view path);

}  // namespace longlora

/// Checks something a user can get wrong. Arguments after the condition are evaluated only on failure.
#define LONGLORA_CHECK(condition, kind, what_happened, where, what_to_do)              \
  do {                                                                                 \
    if (!(condition)) [[unlikely]]                                                     \
      ::longlora::fail(::longlora::ErrorKind::kind, what_happened, where, what_to_do); \
  } while (false)

#define LONGLORA_STRINGIFY_(x) #x
#define LONGLORA_STRINGIFY(x) LONGLORA_STRINGIFY_(x)

/// Checks our own invariants: exit code 70 naming the condition and the place.
#define LONGLORA_INVARIANT(condition)                                                                                               \
  do {                                                                                                                              \
    if (!(condition)) [[unlikely]]                                                                                                  \
      ::longlora::fail(::longlora::ErrorKind::internal, "broken invariant: " #condition, __FILE__ ":" LONGLORA_STRINGIFY(__LINE__), \
                       "report this with the command and its output");                                                              \
  } while (false)
