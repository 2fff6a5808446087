#include "longlora/dist/join.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "dist/meeting_place.h"
#include "dist/tcp_communicator.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/host.h"
#include "longlora/dist/nccl.h"

namespace longlora::dist {
namespace {

constexpr double kAttemptSeconds = 5;  // one connection and handshake
constexpr double kVerdictSeconds = 2;  // rank 0 says who is missing a little before the others give up
constexpr auto kBetweenAttempts = std::chrono::milliseconds(20);
constexpr const char* kAdvice = "start all ranks with the same command, configuration and program";

/// Equal for all processes of one running kernel, different between hosts; without a boot id the name alone has to do.
Digest host_digest() { return sha256(host_name() + "\n" + boot_id()); }

Hello hello_of(const LaunchInfo& launch, const JoinOptions& options) {
  LONGLORA_CHECK(launch.rank >= 0 && launch.rank < launch.world_size, config,
                 fmt::format("rank {} is not one of {}", launch.rank, launch.world_size), "launch", "give each process a rank from 0 on");
  LONGLORA_CHECK(!launch.run_id.empty() && launch.run_id.size() <= kMaxRunIdBytes, config,
                 fmt::format("the run id has {} bytes, from 1 to {} are allowed", launch.run_id.size(), kMaxRunIdBytes), "LONGLORA_RUN_ID",
                 "export a short one, equal on all ranks");
  Hello hello;
  hello.run_id = launch.run_id;
  hello.rank = static_cast<uint32_t>(launch.rank);
  hello.world = static_cast<uint32_t>(launch.world_size);
  hello.local_rank = static_cast<uint32_t>(launch.local_rank);
  hello.sequence_parallel = static_cast<uint32_t>(options.sequence_parallel);
  hello.host = host_digest();
  hello.binary = options.binary;
  hello.config = options.config;
  return hello;
}

std::shared_ptr<World> new_world(const Hello& hello, const Secret& secret, const JoinOptions& options) {
  const Control::Times times{options.heartbeat_seconds, options.silence_seconds};
  auto world = std::make_shared<World>(hello, RunKeys(secret), times, options.allow_mixed_binaries);
  world->log_folder = options.log_folder;
  world->collective_seconds = options.collective_seconds;
  return world;
}

std::string missing_ranks(const RunState& state) {
  std::string text;
  for (int rank = 0; rank < state.world(); ++rank)
    if (state.address(rank).empty()) text += fmt::format("{}{}", text.empty() ? "" : ", ", rank);
  return text;
}

[[noreturn]] void fail_join(const World& world) {
  fail(ErrorKind::peer, world.state.reason(), fmt::format("rank {}, joining", world.state.rank()), kAdvice);
}

std::shared_ptr<World> join_as_rank_0(const LaunchInfo& launch, const JoinOptions& options) {
  Listening listening = listen_as_rank_0(launch, options);
  const Hello hello = hello_of(launch, options);
  auto world = new_world(hello, listening.secret, options);
  world->folder = std::move(listening.folder);
  world->state.set_addresses(0, {local_address(listening.socket.get()).text()});
  world->control.open_gate(std::move(listening.socket), world->keys, hello);
  world->control.start();
  if (!world->state.wait_ready(options.setup_seconds))
    world->fail_run(fmt::format("of {} ranks these have not joined within {:g} s: {}", launch.world_size, options.setup_seconds,
                                missing_ranks(world->state)));
  return world;
}

/// Until rank 0 lets this rank in. Another run's answer, or none, may be that of a predecessor that is just ending.
std::pair<Descriptor, Secret> knock(Route& route, const Hello& hello, double deadline) {
  std::string last = "nothing listens there";
  for (; monotonic_seconds() < deadline; std::this_thread::sleep_for(kBetweenAttempts)) {
    const double seconds = std::min(kAttemptSeconds, deadline - monotonic_seconds());
    Descriptor socket = route.connect(seconds);
    if (!socket) continue;
    const Secret secret = route.secret();
    const Introduction result = introduce(socket.get(), FrameType::hello, RunKeys(secret).control, hello, seconds);
    if (result.answer == Introduction::Answer::welcome) return {std::move(socket), secret};
    last = result.answer == Introduction::Answer::refused ? result.refusal.text : "what listens there did not answer as rank 0 does";
    const bool is_final = result.answer == Introduction::Answer::refused && result.refusal.reason != Reason::other_run;
    LONGLORA_CHECK(!is_final, peer, "rank 0 refused this rank: " + result.refusal.text,
                   fmt::format("rank {}, {}", hello.rank, route.where()), kAdvice);
  }
  fail(ErrorKind::peer, fmt::format("rank {} did not reach rank 0 in time: {}", hello.rank, last), route.where(),
       "start rank 0 too, and look at its first lines");
}

/// Where this rank takes data connections: its own socket on one host, else the address from which it reached rank 0.
Descriptor listen_as_peer(World& world, const Descriptor& to_rank_0) {
  if (world.folder) return world.folder->listen(world.state.rank());
  Descriptor socket = listen_on(local_address(to_rank_0.get()).with_port(0));
  if (!socket) fail_errno(errno, "listening for the other ranks", local_address(to_rank_0.get()).text());
  return socket;
}

std::string peer_address(int socket) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  LONGLORA_CHECK(::getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &length) == 0, peer, "rank 0 closed the connection at once",
                 "joining", "look at rank 0's last lines");
  return Address::of(reinterpret_cast<const sockaddr*>(&storage), length).text();
}

std::shared_ptr<World> join_as_peer(const LaunchInfo& launch, const JoinOptions& options) {
  const double deadline = monotonic_seconds() + options.setup_seconds;
  const Hello hello = hello_of(launch, options);
  Route route(launch, options);
  auto [socket, secret] = knock(route, hello, deadline);
  auto world = new_world(hello, secret, options);
  world->rank_0_address = route.is_one_host() ? route.where() : peer_address(socket.get());
  world->folder = route.take_folder();
  Descriptor listener = listen_as_peer(*world, socket);
  const std::string own_address = local_address(listener.get()).text();
  world->control.open_gate(std::move(listener), world->keys, hello);
  world->control.connect(std::move(socket), own_address);
  world->control.start();
  if (!world->state.wait_ready(deadline + kVerdictSeconds - monotonic_seconds()))
    world->fail_run(fmt::format("not all ranks have joined within {:g} s, and rank 0 does not say which", options.setup_seconds));
  return world;
}

NcclOptions nccl_options(const std::shared_ptr<World>& world, const JoinOptions& options) {
  return {.interface = options.interface,
          .log_folder = options.log_folder,
          .setup_seconds = options.setup_seconds,
          .collective_seconds = options.collective_seconds,
          .control_lost = [world] { return world->state.has_failed() ? std::optional(world->state.reason()) : std::nullopt; },
          .records = world->flight};
}

}  // namespace

std::unique_ptr<Communicator> join_world(const LaunchInfo& launch, const JoinOptions& options) {
  if (launch.world_size == 1) return single();
  const std::shared_ptr<World> world = launch.rank == 0 ? join_as_rank_0(launch, options) : join_as_peer(launch, options);
  if (!world->state.has_failed()) {
    auto host = std::make_unique<TcpCommunicator>(world);
    if (options.backend == Backend::tcp) return host;
    return make_nccl(std::move(host), options.device, nccl_options(world, options));
  }
  world->control.leave();
  fail_join(*world);
}

}  // namespace longlora::dist
