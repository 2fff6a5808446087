#include "dist/launcher_rules.h"

#include <string.h>

#include <algorithm>
#include <cmath>

#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr int kSignalBase = 128, kLargestSignal = 64;

bool by_signal(int code) { return code > kSignalBase && code <= kSignalBase + kLargestSignal; }

}  // namespace

RootCause root_cause(std::span<const RankEnd> ends) {
  const auto weight = [](const RankEnd& end) { return end.consequence ? 2 : kind_of_code(end.code) == ErrorKind::peer ? 1 : 0; };
  const RankEnd* root = nullptr;
  for (const RankEnd& end : ends) {
    if (end.code == 0) continue;
    if (root == nullptr || weight(end) < weight(*root) || (weight(end) == weight(*root) && end.seconds < root->seconds)) root = &end;
  }
  return root == nullptr ? RootCause{} : RootCause{root->rank, root->code};
}

std::string describe_code(int code) {
  if (by_signal(code))
    return "signal " + std::to_string(code - kSignalBase) + " (" + ::strsignal(code - kSignalBase) + "), exit code " + std::to_string(code);
  const std::optional<ErrorKind> kind = kind_of_code(code);
  return "exit code " + std::to_string(code) + (kind ? " (" + std::string(exit_code(*kind).name) + ")" : "");
}

std::optional<double> RestartRule::pause_before_restart(int code, double now_seconds) {
  constexpr double kHourSeconds = 3600, kLongestPauseSeconds = 60;
  const std::optional<ErrorKind> kind = kind_of_code(code);
  if (kind != ErrorKind::peer && kind != ErrorKind::internal && !by_signal(code)) {
    refusal_ = "a restart does not help after " + describe_code(code);
    return std::nullopt;
  }
  if (kind == ErrorKind::internal && std::exchange(internal_error_seen_, true)) {
    refusal_ = "an internal error came a second time";
    return std::nullopt;
  }
  while (!restarts_.empty() && now_seconds - restarts_.front() >= kHourSeconds) restarts_.pop_front();
  if (std::ssize(restarts_) >= per_hour_) {
    refusal_ = std::to_string(per_hour_) + " restarts in an hour (--max-restarts) are used up";
    return std::nullopt;
  }
  const double pause = std::min(kLongestPauseSeconds, first_pause_seconds_ * std::exp2(static_cast<double>(restarts_.size())));
  restarts_.push_back(now_seconds);
  return pause;
}

}  // namespace longlora::dist
