#include "dist/meeting_place.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "dist/hmac.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

constexpr double kBusySeconds = 10;  // a predecessor that is just ending may still hold the lock or the port

bool uses_store(const LaunchInfo& launch) { return launch.agent_store && !launch.one_host(); }

std::string store_key(const LaunchInfo& launch, const char* name) { return fmt::format("longlora/{}/{}", launch.run_id, name); }

BootstrapStore& store_of(const JoinOptions& options) {
  LONGLORA_INVARIANT(options.store != nullptr);
  return *options.store;
}

const Endpoint& endpoint_of(const LaunchInfo& launch) {
  LONGLORA_CHECK(launch.endpoint.has_value(), config, "ranks on several hosts need the address of rank 0", "MASTER_ADDR, MASTER_PORT",
                 "export them on all ranks (mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ...)");
  return *launch.endpoint;
}

std::vector<Address> local_candidates(const LaunchInfo& launch, const JoinOptions& options, uint16_t port) {
  if (options.interface.empty()) {
    const std::string& host = endpoint_of(launch).host;
    std::vector<Address> found = resolve(host, port);
    LONGLORA_CHECK(!found.empty(), config, fmt::format("the name '{}' has no address", escape(host)), "MASTER_ADDR",
                   "export an address or a name that all hosts know");
    return found;
  }
  if (options.interface == "any") {
    log_warning("rank 0 listens on all interfaces (interface: any); --interface NAME is safer");
    return {*Address::parse(fmt::format("0.0.0.0 {}", port))};
  }
  if (const auto address = address_of_interface(options.interface, port)) return {*address};
  if (const auto address = Address::parse(fmt::format("{} {}", options.interface, port))) return {*address};
  fail(ErrorKind::config, fmt::format("no network interface has the name or address '{}'", escape(options.interface)), "--interface",
       "name one that `ip address` lists, or any");
}

Descriptor listen_on_one_of(const std::vector<Address>& candidates, uint16_t port, const std::string& host) {
  const double deadline = monotonic_seconds() + kBusySeconds;
  int error = 0;
  for (;;) {
    bool is_busy = false;
    for (const Address& address : candidates) {
      Descriptor socket = listen_on(address);
      if (socket) return socket;
      error = errno;
      is_busy |= error == EADDRINUSE;
    }
    if (!is_busy || monotonic_seconds() > deadline) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  LONGLORA_CHECK(error != EADDRINUSE, config, fmt::format("port {} is in use", port), fmt::format("rank 0, {} {}", host, port),
                 "end what uses it, or choose another MASTER_PORT");
  fail(ErrorKind::config, fmt::format("rank 0 cannot listen on {}: {}", escape(host), std::strerror(error)),
       fmt::format("{} {}", host, port), "MASTER_ADDR must name the host of rank 0; or choose an address of it with --interface");
}

Listening listen_on_one_host(const LaunchInfo& launch, const JoinOptions& options) {
  Listening result;
  result.folder = std::make_unique<RunFolder>(launch.run_id);
  result.folder->lock(std::min(kBusySeconds, options.setup_seconds));
  const auto given = secret_of_environment();
  result.secret = given ? *given : random_digest();
  if (!given) write_secret_file(result.folder->secret_path(), result.secret);  // before the socket: who can connect finds this secret
  result.socket = result.folder->listen(0);
  return result;
}

}  // namespace

Listening listen_as_rank_0(const LaunchInfo& launch, const JoinOptions& options) {
  if (launch.one_host()) return listen_on_one_host(launch, options);
  Listening result;
  const auto given = secret_of_environment();
  if (!given && !uses_store(launch)) fail_without_secret();
  result.secret = given ? *given : random_digest();
  const uint16_t port = uses_store(launch) ? 0 : endpoint_of(launch).port;
  result.socket = listen_on_one_of(local_candidates(launch, options, port), port, endpoint_of(launch).host);
  if (!uses_store(launch)) return result;
  log_notice("the ranks meet through torchrun's store, which knows no secret: this run is as safe as that store");
  if (!given) store_of(options).set(store_key(launch, "secret"), to_hex(result.secret));
  Address bound = local_address(result.socket.get());
  std::string text = bound.text();
  if (options.interface == "any") text = endpoint_of(launch).host + text.substr(text.find(' '));
  store_of(options).set(store_key(launch, "endpoint"), text);
  return result;
}

Route::Route(const LaunchInfo& launch, const JoinOptions& options) : one_host_(launch.one_host()), secret_(secret_of_environment()) {
  if (one_host_) {
    folder_ = std::make_unique<RunFolder>(launch.run_id);
    return;
  }
  if (!uses_store(launch)) {
    if (!secret_) fail_without_secret();
    host_ = endpoint_of(launch).host;
    port_ = endpoint_of(launch).port;
    return;
  }
  const std::string text = store_of(options).get(store_key(launch, "endpoint"), options.setup_seconds);
  const size_t space = text.find(' ');
  const auto parsed = space == std::string::npos ? std::nullopt : Address::parse("127.0.0.1" + text.substr(space));
  LONGLORA_CHECK(parsed.has_value(), peer, fmt::format("the store names '{}' as rank 0's address", escape(text)), "torchrun's store",
                 "start again with another --rdzv-id");
  host_ = text.substr(0, space);
  port_ = static_cast<uint16_t>(std::stoul(text.substr(space + 1)));
  if (!secret_) secret_ = parse_secret(store_of(options).get(store_key(launch, "secret"), options.setup_seconds), "torchrun's store");
}

Descriptor Route::connect(double seconds) {
  if (one_host_) return connect_to(Address::unix_path(folder_->socket_path(0)), seconds);
  for (const Address& address : resolve(host_, port_)) {
    if (Descriptor socket = connect_to(address, seconds)) return socket;
  }
  return {};
}

Secret Route::secret() const { return secret_ ? *secret_ : read_secret_file(folder_->secret_path()); }

std::string Route::where() const { return one_host_ ? folder_->socket_path(0) : fmt::format("{} {}", host_, port_); }

}  // namespace longlora::dist
