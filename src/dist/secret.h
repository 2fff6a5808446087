#pragma once
// The 32 bytes that ranks of one run share and strangers do not know.
#include <filesystem>
#include <optional>

#include "longlora/core/hash.h"

namespace longlora::dist {

using Secret = Digest;

/// LONGLORA_SECRET (64 hexadecimal digits), else the file that LONGLORA_SECRET_FILE names; nullopt when neither is set.
/// Malformed: ErrorKind::config; a file others may read or that is not ours: ErrorKind::permission.
std::optional<Secret> secret_of_environment();

/// A regular file of this user that nobody else can read or write, with 64 hexadecimal digits.
Secret read_secret_file(const std::filesystem::path&);
/// Mode 0600, complete or absent; replaces one of a dead run.
void write_secret_file(const std::filesystem::path&, const Secret&);
Secret parse_secret(std::string_view hex, const std::string& where);

/// ErrorKind::config with the two commands that make a secret.
[[noreturn]] void fail_without_secret();

}  // namespace longlora::dist
