#include "dist/run_state.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

std::chrono::duration<double> for_seconds(double seconds) { return std::chrono::duration<double>(std::max(seconds, 0.0)); }

}  // namespace

RunState::RunState(int rank, int world)
    : rank_(rank),
      world_(world),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      connections_(static_cast<size_t>(world)),
      left_(static_cast<size_t>(world)),
      addresses_(static_cast<size_t>(world)) {
  if (!wake_) fail_errno(errno, "creating an event descriptor", "eventfd");
}

bool RunState::raise(const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (failed_) return false;
  try {
    reason_ = reason.substr(0, kMaxTextBytes);
  } catch (...) {  // without memory for the reason the failure itself still counts
  }
  failed_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
  changed_.notify_all();
  return true;
}

std::string RunState::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

bool RunState::wait_for_news(int peer, double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, for_seconds(seconds), [&] { return failed_ || (peer >= 0 && left_[static_cast<size_t>(peer)]); });
}

void RunState::add_connection(int peer, Descriptor socket) {
  const std::lock_guard lock(mutex_);
  connections_[static_cast<size_t>(peer)] = std::move(socket);
  changed_.notify_all();
}

int RunState::connection(int peer) const {
  const std::lock_guard lock(mutex_);
  return connections_[static_cast<size_t>(peer)].get();
}

int RunState::wait_connection(int peer, double seconds) {
  const size_t p = static_cast<size_t>(peer);
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, for_seconds(seconds), [&] { return failed_ || connections_[p] || left_[p]; });
  return failed_ ? -1 : connections_[p].get();
}

void RunState::set_left(int peer) {
  const std::lock_guard lock(mutex_);
  left_[static_cast<size_t>(peer)] = true;
  changed_.notify_all();
}

bool RunState::has_left(int peer) const {
  const std::lock_guard lock(mutex_);
  return left_[static_cast<size_t>(peer)];
}

void RunState::set_addresses(uint32_t first, const std::vector<std::string>& addresses) {
  const std::lock_guard lock(mutex_);
  if (first > addresses_.size() || addresses.size() > addresses_.size() - first) return;
  std::copy(addresses.begin(), addresses.end(), addresses_.begin() + static_cast<std::ptrdiff_t>(first));
  changed_.notify_all();
}

bool RunState::all_addresses() const {
  return std::none_of(addresses_.begin(), addresses_.end(), [](const std::string& address) { return address.empty(); });
}

bool RunState::wait_ready(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, for_seconds(seconds), [&] { return failed_ || all_addresses(); });
}

bool RunState::is_ready() const {
  const std::lock_guard lock(mutex_);
  return all_addresses();
}

std::string RunState::address(int peer) const {
  const std::lock_guard lock(mutex_);
  return addresses_[static_cast<size_t>(peer)];
}

Activity RunState::activity() const {
  const std::lock_guard lock(mutex_);
  Activity result = activity_;
  result.waits_for = waits_for_.load(std::memory_order_relaxed);
  return result;
}

void RunState::begin_call(uint8_t operation, uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  activity_.operation = operation;
  activity_.sequence = sequence;
  activity_.in_call = true;
}

void RunState::end_call() {
  const std::lock_guard lock(mutex_);
  activity_.in_call = false;
  waits_for_ = -1;
}

void RunState::set_place(const char* phase, int64_t step) {
  const std::lock_guard lock(mutex_);
  activity_.phase = phase;
  activity_.step = step;
}

}  // namespace longlora::dist
