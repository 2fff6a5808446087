#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "longlora/checkpoint/commit.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/host.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr size_t kMaxOwnerBytes = 4096;

struct Owner {
  std::string host, boot_id, run_id;
  int64_t pid = 0;
};

std::string owner_text(const std::string& run_id) {
  return fmt::format("{{\"host\": {}, \"pid\": {}, \"boot_id\": {}, \"run_id\": {}}}\n", json_quote(host_name()), getpid(),
                     json_quote(boot_id()), json_quote(run_id));
}

std::optional<Owner> read_owner(int descriptor) {
  std::string text(kMaxOwnerBytes, '\0');
  const ssize_t bytes = pread(descriptor, text.data(), text.size(), 0);
  if (bytes <= 0) return std::nullopt;
  text.resize(static_cast<size_t>(bytes));
  try {
    const JsonValue root = parse_json(text, ".lock");
    const JsonValue *host = root.find("host"), *pid = root.find("pid"), *boot = root.find("boot_id"), *run = root.find("run_id");
    if (!host || !host->string() || !pid || !pid->unsigned_integer() || !boot || !boot->string() || !run || !run->string())
      return std::nullopt;
    return Owner{*host->string(), *boot->string(), *run->string(), static_cast<int64_t>(*pid->unsigned_integer())};
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// The winner writes its name a moment after it has the lock; until then the file may name a dead owner.
bool may_be_alive(const Owner& owner) {
  if (owner.host != host_name()) return true;
  return owner.boot_id == boot_id() && (kill(static_cast<pid_t>(owner.pid), 0) == 0 || errno == EPERM);
}

/// False with errno set; interruptions and short writes stay invisible.
bool replace_content(int descriptor, std::string_view text) {
  if (ftruncate(descriptor, 0) != 0) return false;
  for (size_t written = 0; written < text.size();) {
    const ssize_t bytes = pwrite(descriptor, text.data() + written, text.size() - written, static_cast<off_t>(written));
    if (bytes < 0 && errno != EINTR) return false;
    written += static_cast<size_t>(std::max<ssize_t>(bytes, 0));
  }
  return true;
}

[[noreturn]] void fail_held(int descriptor, const fs::path& folder) {
  std::optional<Owner> owner;
  for (int attempt = 0; attempt < 10 && !(owner && may_be_alive(*owner)); ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    owner = read_owner(descriptor);
  }
  close(descriptor);
  const std::string who = owner ? fmt::format("run {}, pid {} on {}", owner->run_id, owner->pid, owner->host) : "another run";
  fail(ErrorKind::busy, "the output folder is held by " + who, folder.string(), "wait for it, stop it, or use another output_dir");
}

}  // namespace

OutputLock::OutputLock(const fs::path& output_dir, const std::string& run_id) {
  create_folders(output_dir);
  const std::string path = (output_dir / ".lock").string();
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor < 0) fail_errno(errno, "open", path);
  int result;
  do {
    result = flock(descriptor, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) fail_held(descriptor, output_dir);
  if (result != 0 || !replace_content(descriptor, owner_text(run_id))) {
    const int error_number = errno;
    close(descriptor);
    fail_errno(error_number, "lock", path);
  }
  descriptor_ = descriptor;
}

OutputLock::~OutputLock() { close(descriptor_); }

}  // namespace longlora
