#include "longlora/core/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace longlora {
namespace {

using std::filesystem::path;

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// A number in a one-line file of the kernel; unlimited when absent or "max".
int64_t number_in(const path& name) {
  std::ifstream file(name);
  int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

/// The number of a line "key N" or "key: N kB"; -1 when there is none.
int64_t number_of(const path& name, std::string_view key) {
  std::ifstream file(name);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    int64_t value = 0;
    if (words >> word >> value && word == key) return value;
  }
  return -1;
}

/// Of /proc/meminfo, in bytes; -1 without procfs.
int64_t memory_of(const path& root, std::string_view key) {
  const int64_t kib = number_of(root / "proc/meminfo", key);
  return kib >= 0 ? kib * 1024 : -1;
}

/// How the two versions of control groups name the same things.
struct Version {
  const char *mount, *controllers, *limit, *usage, *file_pages;
};
constexpr Version kVersions[] = {{"sys/fs/cgroup", "", "memory.max", "memory.current", ""},
                                 {"sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"}};

/// This process's group: of the line "0::/path", or "4:memory:/path"; empty when there is none.
std::string group_of(const path& root, std::string_view controllers) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    if (("," + line.substr(first + 1, second - first - 1) + ",").find("," + std::string(controllers) + ",") != line.npos)
      return path(line.substr(second + 1)).relative_path().string();
  }
  return "";
}

/// The kernel gives file pages back before it refuses memory.
int64_t room_in(const path& group, const Version& v) {
  const int64_t limit = number_in(group / v.limit), usage = number_in(group / v.usage);
  if (limit == kUnlimited || usage == kUnlimited) return kUnlimited;
  const auto pages = [&](const char* kind) {
    return std::max<int64_t>(0, number_of(group / "memory.stat", v.file_pages + std::string(kind)));
  };
  const int64_t used = std::max<int64_t>(0, usage - pages("inactive_file") - pages("active_file"));
  return std::max<int64_t>(0, limit - used);
}

/// The least `of(folder, version)` of this process's control groups: every group above limits this one too. What a container does not see
/// of its own path is left out.
template <class Of>
int64_t least_of_groups(const path& root, Of&& of) {
  int64_t least = kUnlimited;
  for (const Version& v : kVersions)
    for (path group = group_of(root, v.controllers);; group = group.parent_path()) {
      least = std::min(least, of(root / v.mount / group, v));
      if (group.empty()) break;
    }
  return least;
}

}  // namespace

int64_t available_host_memory(const path& root) {
  const int64_t available = memory_of(root, "MemAvailable:");
  return std::min(available >= 0 ? available : int64_t{4} << 30, least_of_groups(root, room_in));
}

int64_t host_memory_limit(const path& root) {
  const int64_t total = memory_of(root, "MemTotal:");
  const int64_t groups = least_of_groups(root, [](const path& group, const Version& v) { return number_in(group / v.limit); });
  return total > 0 || groups < kUnlimited ? std::min(total > 0 ? total : kUnlimited, groups) : 0;
}

}  // namespace longlora
