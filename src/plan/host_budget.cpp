#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "longlora/plan/memory_plan.h"

namespace longlora {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// A number in a one-line file of the kernel; unlimited when absent or "max".
int64_t number_in(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kib = 0;
    if (words >> key >> kib && key == "MemAvailable:") return kib * 1024;
  }
  return int64_t{4} << 30;  // no procfs: a cautious guess
}

int64_t control_group_room() {
  const std::pair<const char*, const char*> files[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
  for (const auto& [limit_file, usage_file] : files) {
    const int64_t limit = number_in(limit_file), usage = number_in(usage_file);
    if (limit != kUnlimited && usage != kUnlimited && limit > usage) return limit - usage;
  }
  return kUnlimited;
}

}  // namespace

int64_t default_host_budget() {
  constexpr int64_t kReserve = int64_t{8} << 30;
  const int64_t available = std::min(available_memory(), control_group_room());
  return available > 2 * kReserve ? available - kReserve : available / 2;
}

}  // namespace longlora
