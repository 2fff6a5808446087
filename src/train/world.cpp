#include "train/world.h"

#include <algorithm>

#include "longlora/config/config_io.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"
#include "longlora/dist/join.h"
#include "longlora/ops/accelerator.h"
#include "longlora/train/environment.h"
#include "longlora/train/readers.h"
#include "longlora/train/version.h"
#include "train/together.h"

namespace longlora {
namespace {

/// This program as a file and the library it computes with.
Digest binary_digest() {
  Sha256 hash;
  hash.update(kVersion).update(libtorch_version());
  InputFile program("/proc/self/exe");
  std::vector<std::byte> piece(size_t{1} << 20);
  for (uint64_t at = 0; at < program.size(); at += piece.size()) {
    const std::span<std::byte> part(piece.data(), std::min<uint64_t>(piece.size(), program.size() - at));
    program.read(at, part);
    hash.update(part);
  }
  return hash.finish();
}

dist::Backend backend_of(const TrainConfig& config, bool on_gpu) {
  if (config.dist.backend == DistBackend::nccl) return dist::Backend::nccl;
  return on_gpu && config.dist.backend == DistBackend::automatic ? dist::Backend::nccl : dist::Backend::tcp;
}

void warn_of_crowding(const dist::LaunchInfo& launch) {
  if (compute_threads() * launch.local_world_size > cpu_info().physical_cores)
    log_notice("{} ranks of {} threads share {} cores", launch.local_world_size, compute_threads(), cpu_info().physical_cores);
}

/// Its own GPU and its part of the cores for this rank.
void share_host(const dist::LaunchInfo& launch, bool may_use_gpu, int threads) {
  if (may_use_gpu) accelerator::select_device(launch.local_rank);
  if (threads == 0) set_compute_threads(std::max(1, cpu_info().physical_cores / launch.local_world_size));
  warn_of_crowding(launch);
}

std::unique_ptr<dist::BootstrapStore> store_of(const dist::LaunchInfo& launch, const ConnectStore& connect) {
  if (!launch.agent_store || launch.one_host() || !launch.endpoint || !connect) return nullptr;
  return connect(*launch.endpoint);
}

/// Ranks that share rows talk in every layer: they are whole groups on one host.
void check_sequence_groups(const dist::LaunchInfo& launch, int64_t parts) {
  const auto text = [](int64_t n) { return std::to_string(n); };
  LONGLORA_CHECK(launch.world_size % parts == 0, config,
                 text(launch.world_size) + " ranks are no multiple of " + text(parts) + " that share a row", "dist.sequence_parallel",
                 "start a multiple of it, or set it to 1");
  LONGLORA_CHECK(launch.local_world_size % parts == 0, config,
                 text(launch.local_world_size) + " ranks a host are no multiple of " + text(parts) + " that share a row",
                 "dist.sequence_parallel", "start whole groups on every host");
}

}  // namespace

dist::LaunchInfo find_launch(const TrainRequest& request, const TrainConfig& config) {
  dist::LaunchInfo launch = dist::detect_launch(request.launch, dist::process_environment(), config.output_dir);
  check_sequence_groups(launch, config.dist.sequence_parallel);
  if (launch.world_size == 1) return launch;
  LONGLORA_CHECK(config.dist.backend != DistBackend::single, config,
                 "dist.backend is single, and " + dist::describe(launch) + " is one of several ranks", "dist.backend", "use auto");
  share_host(launch, config.device != DeviceKind::cpu, request.threads);
  return launch;
}

std::unique_ptr<dist::Communicator> join_readers(const std::string& what, const std::string& device, int threads,
                                                 const ConnectStore& connect_store) {
  const dist::LaunchInfo launch = dist::detect_launch({}, dist::process_environment(), what);
  if (launch.world_size == 1) return dist::single();
  share_host(launch, device != "cpu", threads);
  dist::JoinOptions options{.binary = binary_digest(), .config = sha256(what)};
  const std::unique_ptr<dist::BootstrapStore> store = store_of(launch, connect_store);
  options.store = store.get();
  return dist::join_world(launch, options);
}

World join(const dist::LaunchInfo& launch, const TrainRequest& request, const TrainConfig& config, bool on_gpu) {
  World world{.launch = launch};
  if (launch.world_size == 1) {
    world.all = dist::single();
    return world;
  }
  dist::JoinOptions options{.backend = backend_of(config, on_gpu),
                            .binary = binary_digest(),
                            .config = sha256(canonical_json(config, ResumeClass::frozen)),
                            .sequence_parallel = static_cast<int>(config.dist.sequence_parallel),
                            .allow_mixed_binaries = request.allow_mixed_binaries,
                            .interface = request.interface,
                            .log_folder = std::filesystem::path(config.output_dir) / "logs"};
  const std::unique_ptr<dist::BootstrapStore> store = store_of(launch, request.connect_store);
  options.store = store.get();
  options.device = accelerator::selected_device();
  options.collective_seconds = static_cast<double>(config.dist.timeout_seconds);
  if (on_gpu && options.backend == dist::Backend::tcp) log_warning("dist.backend tcp with a GPU: gradients go over the host");
  world.all = dist::join_world(launch, options);
  if (const int parts = options.sequence_parallel; parts > 1) {
    world.rows_group = world.all->split(launch.rank % parts, launch.rank / parts);
    world.sequence = world.all->split(launch.rank / parts, launch.rank % parts);
  }
  return world;
}

bool agree_on_weights(World& world, bool wanted_here) {
  if (!any_rank(*world.all, wanted_here) || world.launch.world_size == 1) return false;
  LONGLORA_CHECK(!world.sequence || world.all->takes_device_memory(), config,
                 "frozen weights cannot be shared by ranks that share rows over this transport", "dist.shard_weights",
                 "set dist.shard_weights: none or dist.sequence_parallel: 1");
  world.weights = world.all->split(0, world.launch.rank);
  return true;
}

void take_threads(const TrainRequest& request, int saved, const dist::LaunchInfo& launch) {
  if (request.threads != 0 || saved <= 0 || saved == compute_threads()) return;
  set_compute_threads(saved);
  log_notice("{} compute threads a rank, as in the saved run", saved);
  warn_of_crowding(launch);
}

}  // namespace longlora
