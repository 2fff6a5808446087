#include "dist/control.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

constexpr double kTurnSeconds = 0.5, kLeaveSeconds = 1, kFailedLeaveSeconds = 0.3, kAnnounceSeconds = 1;
constexpr double kStoppedSeconds = 2;  // a turn this late: this process was stopped, and the others' silence says nothing
constexpr int kPendingPerRank = 4, kLeastPending = 16;

}  // namespace

Control::Control(RunState& state, Times times, bool allow_mixed_binaries)
    : state_(state),
      times_(times),
      allow_mixed_binaries_(allow_mixed_binaries),
      links_(static_cast<size_t>(state.world())),
      command_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!command_) fail_errno(errno, "creating an event descriptor", "eventfd");
}

Control::~Control() { leave(); }

void Control::open_gate(Descriptor listener, const RunKeys& keys, const Hello& own) {
  own_ = own;
  hosts_ = {own.host};
  Gate::Rules rules{.keys = keys, .run_id = own.run_id};
  rules.max_pending = static_cast<size_t>(std::max(kLeastPending, kPendingPerRank * state_.world()));
  rules.refuse = [this](const Hello& hello, bool is_pair) { return refuse(hello, is_pair); };
  rules.enter = [this](Descriptor socket, const Hello& hello, bool is_pair) { enter(std::move(socket), hello, is_pair); };
  gate_ = std::make_unique<Gate>(std::move(listener), std::move(rules));
}

void Control::connect(Descriptor to_rank_0, const std::string& own_address) {
  links_[0] = std::make_unique<Link>(0, std::move(to_rank_0));
  links_[0]->queue(FrameType::listen, encode_text(own_address));
}

void Control::start() {
  last_turn_ = monotonic_seconds();
  thread_ = std::thread([this] { loop(); });
}

void Control::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(command_.get(), &one, sizeof one);
}

void Control::report(int suspect, const std::string& call) {
  const std::lock_guard lock(mutex_);
  if (!command_report_) command_report_ = Report{suspect, call};
  wake();
}

void Control::announce() noexcept {
  std::unique_lock lock(mutex_);
  if (!thread_.joinable() || thread_.get_id() == std::this_thread::get_id()) return;
  wake();
  announced_.wait_for(lock, std::chrono::duration<double>(kAnnounceSeconds), [&] { return has_announced_; });
}

void Control::leave() noexcept {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    command_leave_ = true;
  }
  wake();
  thread_.join();
}

void Control::loop() noexcept {
  try {
    while (turn()) {
    }
  } catch (const std::exception& error) {
    state_.raise(fmt::format("rank {}'s control thread ended: {}", state_.rank(), error.what()));
  }
  const std::lock_guard lock(mutex_);
  has_announced_ = true;
  announced_.notify_all();
}

bool Control::turn() {
  take_commands();
  announce_failure();
  wait_for_events();
  serve_links();
  if (gate_ && !is_leaving_) gate_->serve();
  watch_time();
  if (!is_leaving_) return true;
  const bool all_closed = std::none_of(links_.begin(), links_.end(), [](const auto& link) { return link != nullptr; });
  return !all_closed && monotonic_seconds() < leave_deadline_;
}

void Control::take_commands() {
  std::optional<Report> report;
  bool leave = false;
  {
    const std::lock_guard lock(mutex_);
    report = std::exchange(command_report_, std::nullopt);
    leave = command_leave_;
  }
  if (report && is_server()) open_inquiry(0, *report);
  if (report && links_[0]) links_[0]->queue(FrameType::report, encode_report(*report));
  if (!leave || is_leaving_) return;
  is_leaving_ = true;
  leave_deadline_ = monotonic_seconds() + (state_.has_failed() ? kFailedLeaveSeconds : kLeaveSeconds);
  if (!state_.has_failed()) queue_all(FrameType::goodbye, {});
}

void Control::announce_failure() {
  if (!state_.has_failed() || is_announced_) return;
  is_announced_ = true;
  queue_all(FrameType::abort, encode_text(state_.reason()));
  for (auto& link : links_)
    if (link) link->flush();
  const std::lock_guard lock(mutex_);
  has_announced_ = true;
  announced_.notify_all();
}

void Control::wait_for_events() {
  std::vector<pollfd> set = {{command_.get(), POLLIN, 0}};
  for (const auto& link : links_) {
    if (!link) continue;
    const short output = link->has_output() ? POLLOUT : 0;
    set.push_back({link->descriptor(), static_cast<short>(POLLIN | output), 0});
  }
  double seconds = std::min(kTurnSeconds, std::max(next_heartbeat_ - monotonic_seconds(), 0.0));
  if (gate_ && !is_leaving_) gate_->watch(set), seconds = gate_->next_event_seconds(seconds);
  if (inquiry_ || is_leaving_) seconds = std::min(seconds, 0.05);
  ::poll(set.data(), set.size(), static_cast<int>(std::ceil(seconds * 1000)));
  uint64_t drained = 0;
  [[maybe_unused]] const ssize_t got = ::read(command_.get(), &drained, sizeof drained);
  // after the wait, so that its own length does not count: a turn is short unless this process did not run
  const double now = monotonic_seconds();
  if (now - last_turn_ > kStoppedSeconds) {
    for (auto& link : links_)
      if (link) link->heard = now;
  }
  last_turn_ = now;
}

void Control::serve_links() {
  for (auto& link : links_) {
    if (link) serve(*link);
    if (link && link->descriptor() < 0) link.reset();
  }
}

void Control::serve(Link& link) {
  const bool is_open = link.fill();
  while (const auto message = link.next()) {
    handle(link, *message);
    if (link.descriptor() < 0) return;
  }
  if (link.is_bad()) return lost(link, "it sent a malformed control message");
  if (!is_open) return lost(link, "its connection closed");
  if (!link.flush() && !is_leaving_) return lost(link, "its connection broke");
  if (is_leaving_ && !link.has_output()) link.end_output();
}

void Control::handle(Link& link, const Link::Message& message) {
  if (message.type == FrameType::heartbeat) {
    if (const auto activity = parse_activity(message.payload)) link.activity = *activity;
  } else if (message.type == FrameType::abort) {
    const auto reason = parse_text(message.payload);
    state_.raise(reason ? *reason : fmt::format("rank {} ended the run", link.rank()));
    announce_failure();
    link.close();  // nothing more to say: its rank need not wait for this one on its way out
  } else if (is_server()) {
    handle_at_server(link, message);
  } else {
    handle_at_client(link, message);
  }
}

void Control::handle_at_server(Link& link, const Link::Message& message) {
  if (message.type == FrameType::listen) {
    const auto address = parse_text(message.payload);
    if (!address || address->empty()) return lost(link, "it sent a malformed control message");
    link.has_listener = true;
    state_.set_addresses(static_cast<uint32_t>(link.rank()), {*address});
    if (state_.is_ready()) publish_addresses();
  } else if (message.type == FrameType::report) {
    if (const auto report = parse_report(message.payload)) open_inquiry(link.rank(), *report);
  } else if (message.type == FrameType::goodbye) {
    state_.set_left(link.rank());
    queue_all(FrameType::gone, encode_rank(link.rank()), link.rank());
    link.close();
  }
}

void Control::handle_at_client(Link& link, const Link::Message& message) {
  if (message.type == FrameType::peers) {
    if (const auto part = parse_peers(message.payload)) state_.set_addresses(part->first, part->addresses);
  } else if (message.type == FrameType::probe) {
    link.queue(FrameType::heartbeat, encode_activity(state_.activity()));
  } else if (message.type == FrameType::gone) {
    const auto rank = parse_rank(message.payload);
    if (rank && *rank >= 0 && *rank < state_.world()) state_.set_left(*rank);
  } else if (message.type == FrameType::goodbye) {
    state_.set_left(0);
    link.close();
  }
}

void Control::lost(Link& link, const std::string& how) {
  const bool has_joined = !is_server() || link.has_listener;
  link.close();
  if (is_leaving_ || state_.has_failed() || !has_joined) return;  // a client that has not joined may come again
  state_.raise(fmt::format("rank {} is lost: {} ({})", link.rank(), how, describe(link.activity)));
  announce_failure();
}

void Control::watch_time() {
  const double now = monotonic_seconds();
  if (now >= next_heartbeat_) {
    next_heartbeat_ = now + times_.heartbeat_seconds;
    queue_all(FrameType::heartbeat, encode_activity(state_.activity()));
  }
  for (auto& link : links_) {
    if (link && now - link->heard > times_.silence_seconds)
      lost(*link, fmt::format("nothing was heard of it for {:.0f} s", times_.silence_seconds));
    if (link && link->descriptor() < 0) link.reset();
  }
  if (inquiry_) decide();
  for (auto& link : links_)
    if (link) link->flush();
}

void Control::queue_all(FrameType type, std::string_view payload, int except) {
  for (auto& link : links_)
    if (link && link->descriptor() >= 0 && link->rank() != except) link->queue(type, payload);
}

}  // namespace longlora::dist
