#include "dist/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace longlora::dist {
namespace {

std::chrono::duration<double> seconds(double s) { return std::chrono::duration<double>(s); }
constexpr double kPollerLeaveSeconds = 1;

}  // namespace

std::string describe(const Verdict& verdict, int rank) {
  if (!verdict.call) return fmt::format("rank {}, no call outstanding: {}", rank, verdict.reason);
  const FlightRecord& r = verdict.call->record;
  return fmt::format("rank {}, {} {}, {}, sequence {}, {} bytes, {:.1f} seconds waited: {}", rank, r.phase.empty() ? "step" : r.phase,
                     r.step, r.operation, r.sequence, r.bytes, verdict.waited_seconds, verdict.reason);
}

uint64_t WatchBook::enter(const FlightRecord& record, double deadline_seconds) {
  const uint64_t flight_number = records_.begin(record);
  const std::lock_guard lock(mutex_);
  calls_.push_back({next_, {record, deadline_seconds, flight_number}});
  return next_++;
}

void WatchBook::enqueued(uint64_t number, CollectiveLibrary::Mark mark, Stream stream, double now) {
  const std::lock_guard lock(mutex_);
  for (auto& [n, call] : calls_) {
    if (n != number) continue;
    call.mark = mark, call.stream = stream;
    records_.enqueued(call.flight_number, now);
  }
}

void WatchBook::left(uint64_t number, double now) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(calls_.begin(), calls_.end(), [&](const auto& entry) { return entry.first == number; });
  if (found == calls_.end()) return;
  records_.finished(found->second.flight_number, now);
  calls_.erase(found);
}

void WatchBook::clear() {
  const std::lock_guard lock(mutex_);
  calls_.clear();
}

WatchBook::Polled WatchBook::poll(const AskMark& ask, double now) {
  std::vector<std::pair<uint64_t, WatchedCall>> calls;
  {
    const std::lock_guard lock(mutex_);
    std::copy_if(calls_.begin(), calls_.end(), std::back_inserter(calls), [](const auto& entry) { return entry.second.mark != nullptr; });
  }
  Polled result;
  std::vector<Stream> pending;
  for (const auto& [number, call] : calls) {
    if (std::find(pending.begin(), pending.end(), call.stream) != pending.end()) continue;
    std::string error;
    const Progress progress = ask(call.mark, error);
    if (progress == Progress::pending) pending.push_back(call.stream);
    if (progress == Progress::done) left(number, now), result.done.push_back(call.mark);
    if (progress == Progress::failed) return result.error = error, result;  // the device is lost: it is not asked again
  }
  return result;
}

std::optional<Verdict> WatchBook::overdue(double now) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [number, call] : calls_) {
    const double waited = now - call.record.entered_at;
    if (waited < call.deadline_seconds) continue;
    return Verdict{Cause::deadline, fmt::format("the deadline of {:g} s has passed", call.deadline_seconds), call, waited};
  }
  return std::nullopt;
}

Verdict WatchBook::verdict(Cause cause, std::string reason, double now) const {
  const std::lock_guard lock(mutex_);
  if (calls_.empty()) return {cause, std::move(reason), std::nullopt, 0};
  const WatchedCall& oldest = calls_.front().second;
  return {cause, std::move(reason), oldest, now - oldest.record.entered_at};
}

size_t WatchBook::outstanding() const {
  const std::lock_guard lock(mutex_);
  return calls_.size();
}

struct Watchdog::Shared {
  WatchdogHooks hooks;
  Times times;
  std::mutex mutex;
  std::condition_variable changed;
  bool stop = false, poller_gone = false;
  std::optional<std::pair<Cause, std::string>> found;  // by the poller
};

Watchdog::Watchdog(WatchBook& book, WatchdogHooks hooks, Times times) : shared_(std::make_shared<Shared>()) {
  shared_->hooks = std::move(hooks);
  shared_->times = times;
  poller_ = std::thread([shared = shared_] { poll(shared); });
  judge_ = std::thread([shared = shared_, &book] { judge(shared, book); });
}

Watchdog::~Watchdog() {
  bool gone = false;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->stop = true;
    shared_->changed.notify_all();
    gone = shared_->changed.wait_for(lock, seconds(kPollerLeaveSeconds), [&] { return shared_->poller_gone; });
  }
  judge_.join();
  if (gone)
    poller_.join();
  else
    poller_.detach();
}

void Watchdog::poll(const std::shared_ptr<Shared>& shared) {
  std::unique_lock lock(shared->mutex);
  while (!shared->changed.wait_for(lock, seconds(shared->times.poll_seconds), [&] { return shared->stop || shared->found; })) {
    lock.unlock();
    std::optional<std::pair<Cause, std::string>> found;
    if (const auto polled = shared->hooks.poll_marks(); polled.error)
      found = {Cause::device, *polled.error};
    else if (auto error = shared->hooks.library_error())
      found = {Cause::library, *error};
    lock.lock();
    if (found && !shared->found) shared->found = found, shared->changed.notify_all();
  }
  shared->poller_gone = true;
  shared->changed.notify_all();
}

void Watchdog::judge(const std::shared_ptr<Shared>& shared, WatchBook& book) {
  std::unique_lock lock(shared->mutex);
  while (!shared->stop) {
    const auto found = shared->found;
    lock.unlock();
    const double now = shared->hooks.now();
    std::optional<Verdict> verdict;
    if (found) verdict = book.verdict(found->first, found->second, now);
    if (!verdict && shared->hooks.control_lost)
      if (auto lost = shared->hooks.control_lost()) verdict = book.verdict(Cause::control, *lost, now);
    if (!verdict) verdict = book.overdue(now);
    if (verdict) return carry_out(shared, *verdict);
    lock.lock();
    shared->changed.wait_for(lock, seconds(shared->times.poll_seconds), [&] { return shared->stop || shared->found; });
  }
}

void Watchdog::carry_out(const std::shared_ptr<Shared>& shared, const Verdict& verdict) {
  shared->hooks.decided(verdict);
  std::thread([shared, verdict] { shared->hooks.give_up(verdict); }).detach();
  std::unique_lock lock(shared->mutex);
  // real time: an injected clock may stand still. A thread that was only waiting ends the process itself, by its own error
  const bool ended = shared->changed.wait_for(lock, seconds(shared->times.end_seconds), [&] { return shared->stop; });
  if (!ended) shared->hooks.end_process(verdict);
}

}  // namespace longlora::dist
