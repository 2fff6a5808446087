#include "dist/nccl_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "dist/nccl_agreement.h"
#include "dist/nccl_result.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

constexpr auto kGatePatience = std::chrono::seconds(1);
constexpr auto kPollPause = std::chrono::microseconds(100);

void give_up(NcclSession& session, const Verdict& verdict) {
  const std::string line = describe(verdict, session.rank);
  if (!session.options.log_folder.empty()) session.records->write(session.options.log_folder, session.rank, line, session.now());
  log_warning("{}", line);
  session.end_run(line, verdict.cause == Cause::device);
}

std::optional<std::string> library_error(NcclSession& session) {
  std::unique_lock lock(session.gate, std::defer_lock);
  if (!lock.try_lock_for(std::chrono::milliseconds(50))) return std::nullopt;  // a launch is going on: the next turn asks
  for (const auto handle : session.handles) {
    int state = kNcclSuccess;
    const int asked = session.library->state(handle, state);
    const int result = asked != kNcclSuccess ? asked : state;
    if (result != kNcclSuccess && result != kNcclInProgress)
      return nccl_error(result, "NCCL", session.library->device_name(), session.library->last_error(handle)).what_happened;
  }
  return std::nullopt;
}

}  // namespace

std::string NcclSession::place() { return fmt::format("rank {}, {}", rank, library->device_name()); }

void NcclSession::die(const std::string& reason) {
  const std::lock_guard lock(mutex);
  if (!dead) dead = reason;
}

void NcclSession::check_alive() {
  const std::lock_guard lock(mutex);
  if (dead) fail(ErrorKind::peer, *dead, fmt::format("rank {} {} {}", rank, *phase ? phase : "step", step), kAfterPeerFailure);
}

void NcclSession::settle(Handle handle, int result, const char* operation) {
  while (result == kNcclInProgress) {
    std::this_thread::sleep_for(kPollPause);
    int state = kNcclSuccess;
    const int asked = use(handle, [&] { return library->state(handle, state); });
    result = asked != kNcclSuccess ? asked : state;
  }
  if (result != kNcclSuccess) throw nccl_error(result, operation, place(), library->last_error(handle));
}

void NcclSession::abort_handles() noexcept {
  const bool locked = gate.try_lock_for(kGatePatience);
  for (Handle handle : std::exchange(handles, {})) library->abort(handle);
  if (locked) gate.unlock();
}

void NcclSession::end_run(std::string_view reason, bool device_lost) noexcept {
  die(std::string(reason));
  book->clear();
  control->abort(reason);
  if (!device_lost) abort_handles();  // no further CUDA call after a lost device
}

WatchdogHooks hooks_of(const std::shared_ptr<NcclSession>& session) {
  return {.now = session->surroundings.now,
          .poll_marks =
              [session] {
                auto polled = session->book->poll([&](auto mark, std::string& error) { return session->library->progress(mark, error); },
                                                  session->now());
                const std::lock_guard lock(session->mutex);
                session->free_marks.insert(session->free_marks.end(), polled.done.begin(), polled.done.end());
                return polled;
              },
          .library_error = [session] { return library_error(*session); },
          .control_lost = session->options.control_lost,
          .decided = [session](const Verdict& verdict) { session->die(describe(verdict, session->rank)); },
          .give_up = [session](const Verdict& verdict) { give_up(*session, verdict); },
          .end_process = session->surroundings.end_process};
}

void open_library(NcclSession& session, const std::function<std::unique_ptr<CollectiveLibrary>()>& open) {
  Status mine;
  std::string what_to_do = "look at that rank's own message";
  RankDevice device;
  try {
    session.library = open();
    const int header = session.library->header_version(), loaded = session.library->library_version();
    LONGLORA_CHECK(header == loaded, config,
                   fmt::format("NCCL {} was loaded, {} was compiled against", nccl_version_text(loaded), nccl_version_text(header)),
                   "libnccl.so.2", "take the other NCCL out of LD_LIBRARY_PATH, or build again");
    device = {host_identity(), session.library->device_uuid()};
  } catch (const Error& error) {
    mine = {exit_code(error.kind).code, error.what_happened};
    what_to_do = error.what_to_do;
  }
  agree_ready(*session.control, mine, what_to_do);
  agree_version(*session.control, session.library->library_version());
  const std::vector<RankDevice> all = agree_devices(*session.control, device);
  const bool one_host = std::ranges::all_of(all, [&](const RankDevice& other) { return other.host == device.host; });
  const std::string& wanted = session.options.interface;
  const auto interface = socket_interface(wanted, one_host, network_interfaces());
  if (!wanted.empty() && wanted != "any" && !interface) log_notice("no interface of this host is {}: NCCL chooses one itself", wanted);
  constexpr int kKeep = 0;  // what the user set stays
  if (interface) ::setenv("NCCL_SOCKET_IFNAME", interface->c_str(), kKeep);
}

}  // namespace longlora::dist
