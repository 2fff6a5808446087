#include "dist/call.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr double kNewsSeconds = 0.8;  // for the reason of a failure to come over the control connection
constexpr std::string_view kStepPhase = "step";
constexpr double kUnlimitedSeconds = 1e9;
constexpr double kSliceSeconds = 1;        // of a wait
constexpr double kMostCountedSeconds = 2;  // a longer slice means that this process was stopped: that is not the peers' fault
constexpr double kHandshakeSeconds = 5;

std::string_view call_name(uint64_t operation) {
  return operation < kOperations ? name_of(static_cast<Operation>(operation)) : "an unknown call";
}

}  // namespace

Call::Call(World& world, Operation operation, uint64_t channel, uint64_t sequence, int peer, uint64_t bytes)
    : world_(world),
      lock_(world.one_call),
      operation_(operation),
      channel_(channel),
      sequence_(sequence),
      seconds_left_(world.collective_seconds) {
  const Activity place = world_.state.activity();
  if (!place.phase.empty() && place.phase != kStepPhase) seconds_left_ = kUnlimitedSeconds;
  world_.state.begin_call(static_cast<uint8_t>(operation), sequence);
  record_ = world_.flight->begin({.transport = "tcp",
                                  .communicator = channel,
                                  .sequence = static_cast<int64_t>(sequence),
                                  .operation = name_of(operation).data(),
                                  .peer = peer,
                                  .bytes = bytes,
                                  .phase = place.phase,
                                  .step = place.step,
                                  .entered_at = monotonic_seconds()});
  if (!world_.state.has_failed()) return;
  world_.state.end_call();
  throw_failure();
}

Call::~Call() { world_.state.end_call(); }

DataHeader Call::header(size_t bytes) const {
  return {DataHeader::kMagic, channel_, sequence_, static_cast<uint64_t>(on_the_wire(operation_)), bytes};
}

std::string Call::name() const { return fmt::format("{} #{}", name_of(operation_), sequence_); }

void Call::run(std::span<Flow> flows) {
  connect(flows);
  for (;;) {
    if (world_.state.has_failed()) throw_failure();
    bool has_moved = false;
    for (Flow& flow : flows) has_moved |= advance(flow);
    if (std::all_of(flows.begin(), flows.end(), [](const Flow& flow) { return flow.is_finished(); })) break;
    if (!has_moved) wait(flows);
  }
  world_.flight->finished(record_, monotonic_seconds());
}

/// The higher rank of a pair connects. Lower peers first: their control threads answer whatever their callers do, so nobody waits in a
/// circle.
void Call::connect(std::span<Flow> flows) {
  for (const Flow& flow : flows)
    if (flow.peer < world_.state.rank() && world_.state.connection(flow.peer) < 0) connect_lower(flow.peer);
  for (Flow& flow : flows) {
    flow.socket = world_.state.connection(flow.peer);
    while (flow.socket < 0) {
      world_.state.set_waits_for(flow.peer);
      const double begun = monotonic_seconds();
      flow.socket = world_.state.wait_connection(flow.peer, std::min(kSliceSeconds, seconds_left_));
      if (world_.state.has_failed()) throw_failure();
      if (flow.socket < 0 && world_.state.has_left(flow.peer)) connection_lost(flow.peer);
      if (flow.socket < 0) spend(monotonic_seconds() - begun, flow.peer);
    }
  }
}

void Call::connect_lower(int peer) {
  const std::string where = peer == 0 ? world_.rank_0_address : world_.state.address(peer);
  const auto address = Address::parse(where);
  if (!address) fail_all(fmt::format("rank {} listens at '{}', which is no address", peer, escape(where)));
  world_.state.set_waits_for(peer);
  for (;;) {
    const double begun = monotonic_seconds();
    Descriptor socket = connect_to(*address, std::min(kSliceSeconds, seconds_left_));
    Introduction result;
    if (socket) {
      const double seconds = std::min(kHandshakeSeconds, seconds_left_);
      result = introduce(socket.get(), FrameType::pair_hello, world_.keys.pair, world_.own, seconds, world_.state.wake_descriptor());
    }
    if (result.answer == Introduction::Answer::welcome) return world_.state.add_connection(peer, std::move(socket));
    if (world_.state.has_failed()) throw_failure();
    if (result.answer == Introduction::Answer::refused)
      fail_all(fmt::format("rank {} refused a connection: {}", peer, result.refusal.text));
    if (world_.state.has_left(peer)) connection_lost(peer);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    spend(monotonic_seconds() - begun, peer);
  }
}

bool Call::advance(Flow& flow) {
  if (flow.is_finished()) return false;
  return flow.is_output ? send(flow) : receive(flow);
}

bool Call::send(Flow& flow) {
  std::string_view piece;
  if (flow.header_done < sizeof flow.header) {
    piece = std::string_view(reinterpret_cast<const char*>(&flow.header), sizeof flow.header).substr(flow.header_done);
  } else {
    const size_t there = flow.available != nullptr ? *flow.available : flow.bytes;
    piece = {flow.data + flow.done, std::min(there - flow.done, kPieceBytes)};
  }
  if (piece.empty()) return false;
  const auto sent = send_some(flow.socket, piece);
  if (!sent) connection_lost(flow.peer);
  (flow.header_done < sizeof flow.header ? flow.header_done : flow.done) += *sent;
  return *sent > 0;
}

bool Call::receive(Flow& flow) {
  const bool in_header = flow.header_done < sizeof flow.header;
  char* place = in_header ? reinterpret_cast<char*>(&flow.seen) + flow.header_done : flow.data + flow.done;
  const size_t room = in_header ? sizeof flow.header - flow.header_done : std::min(flow.bytes - flow.done, kPieceBytes);
  const auto got = receive_some(flow.socket, place, room);
  if (!got) return false;
  if (*got == 0) connection_lost(flow.peer);
  (in_header ? flow.header_done : flow.done) += *got;
  if (in_header && flow.header_done == sizeof flow.header && flow.seen != flow.header) mismatch(flow);
  return true;
}

void Call::wait(std::span<Flow> flows) {
  std::vector<pollfd> set = {{world_.state.wake_descriptor(), POLLIN, 0}};
  int blocker = -1;  // an input first: who sends nothing is rather to blame than who takes nothing
  for (const Flow& flow : flows) {
    const bool has_nothing = flow.header_done == sizeof flow.header && flow.available != nullptr && *flow.available == flow.done;
    if (flow.is_finished() || (flow.is_output && has_nothing)) continue;
    set.push_back({flow.socket, static_cast<short>(flow.is_output ? POLLOUT : POLLIN), 0});
    if (blocker < 0 || !flow.is_output) blocker = flow.peer;
  }
  world_.state.set_waits_for(blocker);
  const double begun = monotonic_seconds(), seconds = std::max(std::min(kSliceSeconds, seconds_left_), 0.0);
  const int ready = ::poll(set.data(), set.size(), static_cast<int>(std::ceil(seconds * 1000)));
  spend(monotonic_seconds() - begun, ready > 0 ? -1 : blocker);
}

/// `peer` -1: something has arrived, so that the end of the time is left to the next wait.
void Call::spend(double seconds, int peer) {
  seconds_left_ -= std::min(seconds, kMostCountedSeconds);
  if (seconds_left_ <= 0 && peer >= 0) deadline_reached(peer);
}

void Call::mismatch(const Flow& flow) {
  const DataHeader &theirs = flow.seen, &ours = flow.header;
  const int me = world_.state.rank();
  if (theirs.magic != ours.magic)
    fail_all(fmt::format("rank {} sent something that is no call where rank {} called {}", flow.peer, me, name()));
  if (theirs.channel == ours.channel && theirs.operation == ours.operation && theirs.sequence == ours.sequence)
    fail_all(fmt::format("rank {} called {} with {} bytes where rank {} expects {}", flow.peer, name(), theirs.bytes, me, ours.bytes));
  fail_all(fmt::format("rank {} called {} #{}{} where rank {} called {}", flow.peer, call_name(theirs.operation), theirs.sequence,
                       theirs.channel == ours.channel ? "" : " of another group", me, name()));
}

void Call::connection_lost(int peer) {
  world_.state.wait_for_news(peer, kNewsSeconds);
  if (world_.state.has_failed()) throw_failure();
  if (world_.state.has_left(peer)) fail_all(fmt::format("rank {} has ended and takes no part in {}", peer, name()));
  fail_all(fmt::format("rank {} closed its connection to rank {} during {}", peer, world_.state.rank(), name()));
}

void Call::deadline_reached(int peer) {
  world_.control.report(peer, name());
  world_.state.wait_for_news(-1, kNewsSeconds);
  if (world_.state.has_failed()) throw_failure();
  const int silent = world_.state.rank() == 0 || world_.state.has_left(0) ? peer : 0;  // rank 0 would have named another one
  fail_all(fmt::format("rank {} does not answer: rank {} has waited {:.0f} s for rank {} in {}", silent, world_.state.rank(),
                       world_.collective_seconds, peer, name()));
}

void Call::fail_all(const std::string& reason) {
  world_.fail_run(reason);
  throw_failure();
}

void Call::throw_failure() {
  const std::string reason = world_.state.reason();
  if (!world_.log_folder.empty()) world_.flight->write(world_.log_folder, world_.state.rank(), reason, monotonic_seconds());
  const Activity place = world_.state.activity();
  const std::string where = place.phase.empty() ? "" : fmt::format(", {} {}", place.phase, place.step);
  fail(ErrorKind::peer, reason, fmt::format("rank {}{}, {}", world_.state.rank(), where, name()),
       "read the named rank's last lines; the same command goes on from the last checkpoint");
}

}  // namespace longlora::dist
