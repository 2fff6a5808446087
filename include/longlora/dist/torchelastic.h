#pragma once
// What torchrun reads about a rank that failed.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace longlora::dist {

/// {"message": {"message": TEXT, "extraInfo": {"py_callstack": "", "timestamp": "UNIX SECONDS"}}}: torchrun takes the earliest
/// timestamp of all ranks as the root cause.
std::string torchelastic_error(std::string_view message, int64_t unix_seconds);
/// Writes it to the file that TORCHELASTIC_ERROR_FILE names, all or nothing.
void write_torchelastic_error(const std::filesystem::path&, std::string_view message, int64_t unix_seconds);

}  // namespace longlora::dist
