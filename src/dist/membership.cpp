// The part of the control thread that says who may join, who is there, and who keeps the others waiting.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "dist/control.h"
#include "dist/operation.h"
#include "longlora/core/clock.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

constexpr double kInquirySeconds = 0.5;

std::string short_hex(const Digest& digest) { return to_hex(digest).substr(0, 12); }

}  // namespace

std::string describe(const Activity& activity) {
  std::string text = activity.phase.empty() ? "place not reported" : fmt::format("{} {}", activity.phase, activity.step);
  const auto operation = static_cast<Operation>(activity.operation);
  if (operation != Operation::none)
    text += fmt::format(", {} {} #{}", activity.in_call ? "in" : "after", name_of(operation), activity.sequence);
  return text;
}

std::optional<std::string> disagreement(const Hello& own, const Hello& theirs, bool allow_mixed_binaries) {
  const auto differs = [&](const char* what, const auto& a, const auto& b) {
    return fmt::format("rank {} has {} {}, rank {} has {}", theirs.rank, what, b, own.rank, a);
  };
  if (theirs.world != own.world) return differs("world size", own.world, theirs.world);
  if (theirs.rank >= own.world) return fmt::format("a process claims rank {} of {}", theirs.rank, own.world);
  if (theirs.rank == own.rank) return fmt::format("two processes claim rank {}", own.rank);
  if (theirs.sequence_parallel != own.sequence_parallel)
    return differs("sequence parallelism", own.sequence_parallel, theirs.sequence_parallel);
  if (theirs.config != own.config) return differs("configuration", short_hex(own.config), short_hex(theirs.config));
  if (theirs.binary != own.binary && !allow_mixed_binaries) return differs("program", short_hex(own.binary), short_hex(theirs.binary));
  return std::nullopt;
}

std::optional<std::string> Control::refuse(const Hello& hello, bool is_pair) {
  if (!is_pair) return refuse_member(hello);
  if (hello.world != own_.world || hello.rank <= own_.rank || hello.rank >= own_.world)
    return fmt::format("rank {} of {} has no data for rank {} of {}", hello.rank, hello.world, own_.rank, own_.world);
  if (state_.connection(static_cast<int>(hello.rank)) >= 0) return fmt::format("two processes claim rank {}", hello.rank);
  return std::nullopt;
}

std::optional<std::string> Control::refuse_member(const Hello& hello) {
  if (!is_server()) return fmt::format("rank {} took rank {} for rank 0", hello.rank, own_.rank);
  std::optional<std::string> text = disagreement(own_, hello, allow_mixed_binaries_);
  if (!text && (links_[hello.rank] || state_.is_ready())) text = fmt::format("two processes claim rank {}", hello.rank);
  if (!text) return text;
  // a run that is under way does not end because somebody starts it a second time
  if (state_.is_ready())
    log_warning("a process was refused: {}", *text);
  else
    state_.raise(*text);
  return text;
}

void Control::enter(Descriptor socket, const Hello& hello, bool is_pair) {
  if (is_pair) return state_.add_connection(static_cast<int>(hello.rank), std::move(socket));
  if (hello.binary != own_.binary)
    log_warning("rank {} runs another program than rank 0 ({}, {})", hello.rank, short_hex(hello.binary), short_hex(own_.binary));
  hosts_.push_back(hello.host);
  links_[hello.rank] = std::make_unique<Link>(static_cast<int>(hello.rank), std::move(socket));
}

void Control::publish_addresses() {
  const std::set<Digest> hosts(hosts_.begin(), hosts_.end());
  log_info("{} ranks on {} host{} have joined", state_.world(), hosts.size(), hosts.size() == 1 ? "" : "s");
  for (uint32_t first = 0; first < own_.world; first += kPeersPerFrame) {
    PeerPart part{first, {}};
    for (uint32_t rank = first; rank < std::min<uint32_t>(first + kPeersPerFrame, own_.world); ++rank)
      part.addresses.push_back(state_.address(static_cast<int>(rank)));
    queue_all(FrameType::peers, encode_peers(part));
  }
}

void Control::open_inquiry(int reporter, const Report& report) {
  if (inquiry_ || state_.has_failed()) return;
  inquiry_ = Inquiry{monotonic_seconds(), reporter, report};
  queue_all(FrameType::probe, {});
}

void Control::decide() {
  if (monotonic_seconds() < inquiry_->begun + kInquirySeconds) return;
  state_.raise(culprit_of(*inquiry_));
  inquiry_.reset();
  announce_failure();
}

Activity Control::activity_of(int rank) const {
  if (rank == state_.rank()) return state_.activity();
  const auto& link = links_[static_cast<size_t>(rank)];
  return link ? link->activity : Activity{};
}

/// First a rank that does not answer at all; else the end of the chain of who waits for whom.
std::string Control::culprit_of(const Inquiry& inquiry) const {
  const std::string waited = fmt::format("rank {} has waited for it in {}", inquiry.reporter, inquiry.report.call);
  for (const auto& link : links_) {
    if (link && link->heard < inquiry.begun)
      return fmt::format("rank {} does not answer: it is stopped or hangs ({}); {}", link->rank(), describe(link->activity), waited);
  }
  int culprit = inquiry.report.suspect;
  if (culprit < 0 || culprit >= state_.world()) return waited;
  std::set<int> seen;
  for (;;) {
    const Activity activity = activity_of(culprit);
    if (!activity.in_call || activity.waits_for < 0 || activity.waits_for >= state_.world()) break;
    if (!seen.insert(culprit).second)
      return fmt::format("rank {} and rank {} wait for each other: {} | {}", culprit, activity.waits_for, describe(activity),
                         describe(activity_of(activity.waits_for)));
    culprit = activity.waits_for;
  }
  return fmt::format("rank {} did not come in time ({}); rank {} has waited in {}", culprit, describe(activity_of(culprit)),
                     inquiry.reporter, inquiry.report.call);
}

}  // namespace longlora::dist
