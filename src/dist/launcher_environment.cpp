#include "dist/launcher_environment.h"

#include <sys/random.h>

#include <array>
#include <cerrno>

#include "longlora/core/error.h"
#include "longlora/core/hash.h"

namespace longlora::dist {
namespace {

constexpr uint16_t kDefaultPort = 29'500;  // exported only: on one host the ranks open no port

/// Variables that say who a process is in some other world; a rank that saw them would believe two launchers.
bool of_another_world(const std::string& name) {
  for (const char* prefix : {"TORCHELASTIC_", "OMPI_", "PMI_", "PMI2_", "PMIX_", "PALS_", "HYDI_", "HYDRA_", "ROLE_", "SLURM_STEP_"})
    if (name.starts_with(prefix)) return true;
  for (const char* exact : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR",
                            "MASTER_PORT", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
                            "SLURM_STEPID", "SLURM_TASK_PID", "SLURM_GTIDS", "LONGLORA_RUN_ID", kOwnLauncherVariable})
    if (name == exact) return true;
  return false;
}

std::string random_hex(size_t bytes) {
  std::string raw(bytes, '\0');
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = ::getrandom(raw.data() + done, bytes - done, 0);
    if (n < 0 && errno != EINTR) fail_errno(errno, "getrandom", "random bytes");
    if (n > 0) done += static_cast<size_t>(n);
  }
  return to_hex({reinterpret_cast<const uint8_t*>(raw.data()), raw.size()});
}

}  // namespace

StartIdentity make_identity(const LauncherOptions& o, int attempt) {
  const auto chosen = o.environment.find("LONGLORA_RUN_ID");
  const std::string base = chosen == o.environment.end() ? "" : chosen->second;
  if (o.nodes == 1) return {base.empty() ? random_hex(8) : attempt == 0 ? base : base + "." + std::to_string(attempt), random_hex(32)};
  // launchers of several hosts count their starts apart, so the number of the start must not enter
  const std::string world =
      o.endpoint->host + "\n" + std::to_string(o.endpoint->port) + "\n" + std::to_string(o.nodes) + "\n" + std::to_string(o.ranks_per_node);
  return {base.empty() ? "launch-" + to_hex(sha256(world)).substr(0, 32) : base, ""};
}

Environment rank_environment(const LauncherOptions& o, const StartIdentity& identity, int local_rank) {
  Environment result;
  for (const auto& [name, value] : o.environment)
    if (!of_another_world(name)) result.emplace(name, value);
  const auto number = [](int value) { return std::to_string(value); };
  result["RANK"] = number(o.node_rank * o.ranks_per_node + local_rank);
  result["WORLD_SIZE"] = number(o.nodes * o.ranks_per_node);
  result["LOCAL_RANK"] = number(local_rank);
  result["LOCAL_WORLD_SIZE"] = number(o.ranks_per_node);
  result["GROUP_RANK"] = number(o.node_rank);
  result["GROUP_WORLD_SIZE"] = number(o.nodes);
  result["MASTER_ADDR"] = o.endpoint ? o.endpoint->host : "127.0.0.1";
  result["MASTER_PORT"] = number(o.endpoint ? o.endpoint->port : kDefaultPort);
  result[kOwnLauncherVariable] = "1";
  result["LONGLORA_RUN_ID"] = identity.run_id;
  if (!identity.secret.empty()) {
    result["LONGLORA_SECRET"] = identity.secret;
    result.erase("LONGLORA_SECRET_FILE");
  }
  if (o.pin_gpus) result.emplace("CUDA_VISIBLE_DEVICES", number(local_rank));  // a value of the user stays
  return result;
}

}  // namespace longlora::dist
