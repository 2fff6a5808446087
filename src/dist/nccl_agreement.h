#pragma once
// What the ranks compare over the host communicator before NCCL starts.
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dist/collective_library.h"
#include "longlora/core/hash.h"

namespace longlora::dist {

struct RankDevice {
  Digest host{};  // of the boot id: one value per running kernel
  CollectiveLibrary::DeviceUuid device{};
};
Digest host_identity();
std::string uuid_text(const CollectiveLibrary::DeviceUuid&);  // "GPU-xxxxxxxx-...", as nvidia-smi prints it

/// Collective. `mine` of code 0 on all ranks, else this rank's error kind, or the first failing rank's, is thrown on every rank.
void agree_ready(Communicator& control, const Status& mine, const std::string& what_to_do);
/// Collective. ErrorKind::peer when the versions differ between ranks.
void agree_version(Communicator& control, int version);
/// Collective; the devices by rank. ErrorKind::config on every rank when two ranks have one device, with local ranks and UUIDs.
std::vector<RankDevice> agree_devices(Communicator& control, const RankDevice& mine);

/// NCCL_SOCKET_IFNAME for NcclOptions::interface among `interfaces` (name, address); nullopt: NCCL chooses.
std::optional<std::string> socket_interface(const std::string& wanted, bool one_host,
                                            std::span<const std::pair<std::string, std::string>> interfaces);
std::vector<std::pair<std::string, std::string>> network_interfaces();

}  // namespace longlora::dist
