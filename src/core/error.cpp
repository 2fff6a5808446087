#include "longlora/core/error.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "core/log_hook.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

constexpr size_t kMaxLine = 240;  // of the final line
constexpr size_t kMaxDetails = 20;
constexpr size_t kLeastPart = 24;  // WHAT and WHERE are never shortened below this

constexpr std::array<ExitCode, 14> kExitCodes = {{
    {ErrorKind::usage, 64, "usage", false, "the command line cannot be understood"},
    {ErrorKind::data, 65, "data", false, "the content of data, weights, tokenizer, adapter or config.json is bad"},
    {ErrorKind::missing, 66, "missing", false, "an input is not there"},
    {ErrorKind::internal, 70, "internal", false, "an invariant of this program is broken; report it"},
    {ErrorKind::memory, 71, "memory", false, "host or device memory does not suffice, predicted or met"},
    {ErrorKind::busy, 73, "busy", false, "the output is held by another run, not empty, or the export target exists"},
    {ErrorKind::io, 74, "io", false, "an input or output operation failed, or the disk is full"},
    {ErrorKind::preempted, 75, "preempted", true, "stopped on request, state saved; run the same command to go on"},
    {ErrorKind::peer, 76, "peer", true, "another rank or a GPU was lost, hangs or disagrees"},
    {ErrorKind::permission, 77, "permission", false, "access is refused"},
    {ErrorKind::config, 78, "config", false, "the configuration has an unknown key, a wrong type or range, or a conflict"},
    {ErrorKind::numeric, 79, "numeric", false, "a loss or gradient is not finite"},
    {ErrorKind::no_checkpoint, 80, "no-checkpoint", false, "checkpoints exist and none is valid; nothing was deleted"},
    {ErrorKind::mismatch, 81, "mismatch", false, "resume with other frozen settings, data, weights or program"},
}};

EndHook& end_hook() {
  static EndHook hook;
  return hook;
}

void write_to_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // a failing stderr changes nothing
    text.remove_prefix(static_cast<size_t>(written));
  }
}

/// Bytes of one printable character that begins at text[i]; 0 for a control character or an invalid byte.
size_t printable_at(std::string_view text, size_t i) {
  const uint8_t byte = static_cast<uint8_t>(text[i]);
  if (byte < 0x80) return byte >= 0x20 && byte != 0x7f ? 1 : 0;
  const size_t length = byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
  const std::string_view sequence = text.substr(i, length);
  if (invalid_utf8_at(sequence)) return 0;
  const bool c1_control = length == 2 && byte == 0xc2 && static_cast<uint8_t>(text[i + 1]) < 0xa0;
  return c1_control ? 0 : length;
}

/// Escaped characters, each one indivisible when a text is shortened.
std::vector<std::string> escaped_units(std::string_view text) {
  std::vector<std::string> units;
  for (size_t i = 0; i < text.size();) {
    const size_t length = printable_at(text, i);
    units.push_back(length ? std::string(text.substr(i, length)) : fmt::format("\\x{:02x}", static_cast<uint8_t>(text[i])));
    i += std::max<size_t>(length, 1);
  }
  return units;
}

std::string join_shortened(const std::vector<std::string>& units, size_t max_bytes) {
  size_t total = 0;
  for (const std::string& unit : units) total += unit.size();
  if (total <= max_bytes) return fmt::format("{}", fmt::join(units, ""));
  const size_t room = max_bytes > 3 ? max_bytes - 3 : 0, front = (room + 1) / 2, back = room - front;
  std::string head, tail;
  for (const std::string& unit : units) {
    if (head.size() + unit.size() > front) break;
    head += unit;
  }
  for (size_t i = units.size(); i > 0 && tail.size() + units[i - 1].size() <= back; --i) tail.insert(0, units[i - 1]);
  return head + "..." + tail;
}

bool tells_of_memory(std::string_view message) {
  for (const std::string_view sign : {"can't allocate memory", "not enough memory", "out of memory", "bad_alloc"})
    if (message.find(sign) != std::string_view::npos) return true;
  return false;
}

void print_error(const Error& error) {
  run_before_log_hook();
  const size_t shown = std::min(error.details.size(), kMaxDetails);
  for (size_t i = 0; i < shown; ++i) write_to_stderr(escape(error.details[i], kMaxLine) + "\n");
  if (error.details.size() > shown) write_to_stderr(fmt::format("and {} more\n", error.details.size() - shown));
  write_to_stderr(error_line(error) + "\n");
}

void call_end_hook(const Error* error, int code) noexcept {
  try {
    if (end_hook()) end_hook()(error, code);
  } catch (...) {  // best effort: a report that cannot be written never changes the exit code
  }
}

int end_with(const Error& error) {
  const int code = exit_code(error.kind).code;
  call_end_hook(&error, code);
  print_error(error);
  return code;
}

/// No allocation: this is printed when there is no memory left.
int end_out_of_memory() noexcept {
  static constexpr std::string_view kLine =
      "longlora-train: error[memory]: host memory is used up (allocation failed); lower data.sequence_length or memory.host_budget, or "
      "choose memory.policy checkpoint\n";
  call_end_hook(nullptr, 71);
  run_before_log_hook();
  write_to_stderr(kLine);
  return 71;
}

int end_with_foreign(const char* message) {
  if (tells_of_memory(message))
    return end_with(Error(ErrorKind::memory, message, "allocation",
                          "lower data.sequence_length or memory.host_budget, or choose memory.policy checkpoint"));
  return end_with(Error(ErrorKind::internal, std::string("unexpected exception: ") + message, "outside of any check",
                        "report this with the command and its output"));
}

[[noreturn]] void on_terminate() noexcept {
  write_to_stderr(
      "longlora-train: error[internal]: terminated (an exception left a thread or a destructor); report this with the command and its "
      "output\n");
  std::_Exit(70);
}

std::string advice_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free disk space or quota, then run the same command again";
    case EFBIG:
      return "raise the file size limit (ulimit -f), then run the same command again";
    case ENOENT:
      return "check the path";
    case EACCES:
    case EPERM:
      return "give this user the right to it or choose another path";
    case EROFS:
      return "choose a path on a writable file system";
    case ENOTDIR:
      return "a parent of the path is not a folder; choose another path";
    case ENAMETOOLONG:
      return "choose a shorter path";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n)";
    case ENOMEM:
      return "free host memory, then run the same command again";
    default:
      return "check the disk and the path, then run the same command again";
  }
}

ErrorKind kind_for(int error_number) {
  switch (error_number) {
    case ENOENT:
      return ErrorKind::missing;
    case EACCES:
    case EPERM:
      return ErrorKind::permission;
    case ENOMEM:
      return ErrorKind::memory;
    default:
      return ErrorKind::io;
  }
}

}  // namespace

std::span<const ExitCode> exit_codes() { return kExitCodes; }

const ExitCode& exit_code(ErrorKind kind) {
  return *std::find_if(kExitCodes.begin(), kExitCodes.end(), [&](const ExitCode& row) { return row.kind == kind; });
}

std::optional<ErrorKind> kind_of_code(int64_t code) {
  const auto row = std::find_if(kExitCodes.begin(), kExitCodes.end(), [&](const ExitCode& r) { return r.code == code; });
  return row == kExitCodes.end() ? std::nullopt : std::optional(row->kind);
}

Error::Error(ErrorKind error_kind, std::string what, std::string place, std::string to_do, std::vector<std::string> detail_lines)
    : kind(error_kind),
      what_happened(std::move(what)),
      where(std::move(place)),
      what_to_do(std::move(to_do)),
      details(std::move(detail_lines)),
      sentence_(what_happened + " (" + where + "); " + what_to_do) {}

void fail(ErrorKind kind, std::string what_happened, std::string where, std::string what_to_do, std::vector<std::string> details) {
  throw Error(kind, std::move(what_happened), std::move(where), std::move(what_to_do), std::move(details));
}

std::string escape(std::string_view text, size_t max_bytes) { return join_shortened(escaped_units(text), max_bytes); }

std::string error_line(const Error& error) {
  const std::string prefix = fmt::format("longlora-train: error[{}]: ", exit_code(error.kind).name);
  constexpr size_t kNoLimit = static_cast<size_t>(-1);
  constexpr size_t kPunctuation = 5;  // " (" and "); "
  std::string what = escape(error.what_happened, kNoLimit), where = escape(error.where), to_do = escape(error.what_to_do, kNoLimit);
  // WHAT gives way first, then WHERE; WHAT TO DO only if it could not fit in any line.
  const auto room = [&](size_t others) {
    return std::max(kLeastPart, kMaxLine - std::min(kMaxLine, prefix.size() + kPunctuation + others));
  };
  what = escape(error.what_happened, room(where.size() + to_do.size()));
  where = escape(error.where, std::min<size_t>(120, room(what.size() + to_do.size())));
  to_do = escape(error.what_to_do, room(what.size() + where.size()));
  return prefix + what + " (" + where + "); " + to_do;
}

bool is_out_of_memory(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception)) return error->kind == ErrorKind::memory;
  return dynamic_cast<const std::bad_alloc*>(&exception) != nullptr || tells_of_memory(exception.what());
}

void set_end_hook(EndHook hook) { end_hook() = std::move(hook); }

int run_guarded(const std::function<int()>& body) noexcept {
  std::set_terminate(on_terminate);
  try {
    const int code = body();
    call_end_hook(nullptr, code);
    return code;
  } catch (const Error& error) {
    return end_with(error);
  } catch (const std::bad_alloc&) {
    return end_out_of_memory();
  } catch (const std::exception& exception) {
    return end_with_foreign(exception.what());
  } catch (...) {
    return end_with_foreign("not derived from std::exception");
  }
}

void fail_errno(int error_number, std::string_view operation, std::string_view path) {
  fail(kind_for(error_number), fmt::format("{} failed: {}", operation, std::strerror(error_number)), std::string(path),
       advice_for(error_number));
}

}  // namespace longlora
