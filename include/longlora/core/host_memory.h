#pragma once
// What the machine and the control groups above this process let it have. `root`: where the file system begins (tests).
#include <cstdint>
#include <filesystem>

namespace longlora {

/// Bytes that can still be taken; pages of files count as free, the kernel gives them back first. Without procfs a cautious 4 GiB.
int64_t available_host_memory(const std::filesystem::path& root = "/");
/// Most that all processes here may hold together; 0 when unknown.
int64_t host_memory_limit(const std::filesystem::path& root = "/");

}  // namespace longlora
