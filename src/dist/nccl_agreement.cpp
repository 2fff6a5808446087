#include "dist/nccl_agreement.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>

#include "dist/nccl_result.h"
#include "longlora/core/error.h"
#include "longlora/core/host.h"

namespace longlora::dist {

Digest host_identity() {
  const std::string boot = boot_id();
  return sha256(boot.empty() ? host_name() : boot);
}

std::string uuid_text(const CollectiveLibrary::DeviceUuid& uuid) {
  const std::string hex = to_hex(uuid);
  return fmt::format("GPU-{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4), hex.substr(20));
}

void agree_ready(Communicator& control, const Status& mine, const std::string& what_to_do) {
  const std::vector<Status> all = control.barrier(mine);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].code == 0) continue;
    fail(kind_of_code(all[rank].code).value_or(ErrorKind::peer), all[rank].text, fmt::format("rank {}", rank), what_to_do);
  }
}

void agree_version(Communicator& control, int version) {
  std::array<int64_t, 2> bounds = {version, -int64_t{version}};
  control.max(bounds);
  LONGLORA_CHECK(bounds[0] == -bounds[1], peer,
                 fmt::format("the ranks have NCCL {} to {}", nccl_version_text(static_cast<int>(-bounds[1])),
                             nccl_version_text(static_cast<int>(bounds[0]))),
                 fmt::format("rank {} has {}", control.rank(), nccl_version_text(version)),
                 "install the same program and libraries on all hosts");
}

std::vector<RankDevice> agree_devices(Communicator& control, const RankDevice& mine) {
  std::vector<RankDevice> all(static_cast<size_t>(control.size()));
  control.all_gather(bytes_of(std::span(&mine, 1)), writable_bytes_of(std::span(all)));
  std::vector<std::string> lines;
  std::string shared;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto before = std::span(all).first(rank);
    const auto local = std::ranges::count(before, all[rank].host, &RankDevice::host);
    lines.push_back(fmt::format("rank {}: local rank {}, {}", rank, local, uuid_text(all[rank].device)));
    const auto same = std::ranges::find(before, all[rank].device, &RankDevice::device);
    if (shared.empty() && same != before.end()) shared = fmt::format("ranks {} and {} have one GPU", same - before.begin(), rank);
  }
  if (!shared.empty()) fail(ErrorKind::config, shared, "nccl", "start one process per GPU (launch --nproc-per-node gpu)", lines);
  return all;
}

std::vector<std::pair<std::string, std::string>> network_interfaces() {
  std::vector<std::pair<std::string, std::string>> found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return found;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = "";
    if (entry->ifa_addr->sa_family == AF_INET)
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text, sizeof text);
    else if (entry->ifa_addr->sa_family == AF_INET6)
      ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr, text, sizeof text);
    else
      continue;
    found.push_back({entry->ifa_name, text});
  }
  ::freeifaddrs(list);
  return found;
}

std::optional<std::string> socket_interface(const std::string& wanted, bool one_host,
                                            std::span<const std::pair<std::string, std::string>> interfaces) {
  const std::string name = wanted.empty() && one_host ? "lo" : wanted;
  for (const auto& [candidate, address] : interfaces)
    if (name == candidate || name == address) return "=" + candidate;  // "=": NCCL takes a plain name for a prefix
  return std::nullopt;
}

}  // namespace longlora::dist
