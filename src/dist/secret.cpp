#include "dist/secret.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "dist/socket.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"

namespace longlora::dist {
namespace {

constexpr size_t kMaxFileBytes = 256;

std::string checked_content(int descriptor, const fs::path& path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail_errno(errno, "reading the secret's status", path.string());
  LONGLORA_CHECK(S_ISREG(status.st_mode), config, "the secret is not a regular file", path.string(),
                 "name a file that holds 64 hex digits");
  LONGLORA_CHECK(status.st_uid == ::geteuid(), permission,
                 fmt::format("the secret belongs to user {}, not to {}", status.st_uid, ::geteuid()), path.string(),
                 "make one as this user, with umask 077");
  LONGLORA_CHECK((status.st_mode & 077) == 0, permission,
                 fmt::format("the secret has mode {:04o}: others may use it", status.st_mode & 07777), path.string(),
                 fmt::format("chmod 600 {}", path.string()));
  char buffer[kMaxFileBytes];
  ssize_t got = 0;
  do got = ::read(descriptor, buffer, sizeof buffer);
  while (got < 0 && errno == EINTR);
  if (got < 0) fail_errno(errno, "reading the secret", path.string());
  return {buffer, static_cast<size_t>(got)};
}

}  // namespace

Secret parse_secret(std::string_view hex, const std::string& where) {
  std::string digits(trim(hex));
  std::transform(digits.begin(), digits.end(), digits.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  Secret secret;
  LONGLORA_CHECK(from_hex(digits, secret), config, fmt::format("the secret is not 64 hexadecimal digits ({} characters)", digits.size()),
                 where, "make one with: openssl rand -hex 32");
  return secret;
}

Secret read_secret_file(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file) fail_errno(errno, "opening the secret", path.string());
  return parse_secret(checked_content(file.get(), path), path.string());
}

void write_secret_file(const fs::path& path, const Secret& secret) {
  const fs::path pending = path.string() + "." + process_nonce();
  const std::string text = to_hex(secret) + "\n";
  {
    const Descriptor file(::open(pending.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) fail_errno(errno, "creating the secret", pending.string());
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written != static_cast<ssize_t>(text.size())) fail_errno(written < 0 ? errno : ENOSPC, "writing the secret", pending.string());
  }
  if (::rename(pending.c_str(), path.c_str()) != 0) fail_errno(errno, "renaming the secret", path.string());
}

std::optional<Secret> secret_of_environment() {
  if (const char* text = std::getenv("LONGLORA_SECRET"); text != nullptr && *text != '\0') return parse_secret(text, "LONGLORA_SECRET");
  if (const char* path = std::getenv("LONGLORA_SECRET_FILE"); path != nullptr && *path != '\0') return read_secret_file(path);
  return std::nullopt;
}

void fail_without_secret() {
  fail(ErrorKind::config, "ranks on several hosts need a common secret", "LONGLORA_SECRET_FILE",
       "make one with the two commands above and start again",
       {"(umask 077; openssl rand -hex 32 > ~/.longlora-secret)     # once, then copy it to every host",
        "export LONGLORA_SECRET_FILE=~/.longlora-secret             # on every host (mpirun: -x LONGLORA_SECRET_FILE)"});
}

}  // namespace longlora::dist
