#include "dist/handshake.h"

#include <cerrno>

#include "dist/hmac.h"
#include "longlora/core/clock.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

constexpr double kUnverifiedSeconds = 5, kWarningSeconds = 60, kPauseSeconds = 0.1;
constexpr int kAcceptsPerTurn = 8;  // few, so that a pending client gets several turns before a flood of strangers pushes it out

std::string_view as_text(const Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

Digest as_digest(std::string_view bytes) {
  Digest digest{};
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

bool send_whole(int socket, const std::string& bytes) { return send_some(socket, bytes) == bytes.size(); }

/// One frame of the other side, without reading past it.
bool receive_frame(int socket, double deadline, int wake, Frame& frame, std::string& buffer) {
  buffer.clear();
  for (;;) {
    const Decoded decoded = decode_frame(buffer, 2 * kMaxTextBytes);
    if (decoded.state == Decoded::State::bad) return false;
    if (decoded.state == Decoded::State::frame) {
      frame = decoded.frame;
      return true;
    }
    char byte = 0;  // one at a time: what follows the frame belongs to the connection's next owner
    const auto got = receive_some(socket, &byte, 1);
    if (got == 0) return false;
    if (got)
      buffer.push_back(byte);
    else if (!wait_for(socket, POLLIN, deadline - monotonic_seconds(), wake))
      return false;
  }
}

}  // namespace

RunKeys::RunKeys(const Digest& secret) : control(hmac_sha256(secret, "longlora control")), pair(hmac_sha256(secret, "longlora pair")) {}

Gate::Gate(Descriptor listener, Rules rules) : listener_(std::move(listener)), rules_(std::move(rules)) {}

void Gate::watch(std::vector<pollfd>& set) const {
  if (monotonic_seconds() >= paused_until_) set.push_back({listener_.get(), POLLIN, 0});
  for (const Pending& pending : pending_) set.push_back({pending.socket.get(), POLLIN, 0});
}

double Gate::next_event_seconds(double most) const {
  if (!pending_.empty()) most = std::min(most, pending_.front().deadline - monotonic_seconds());
  const double pause = paused_until_ - monotonic_seconds();
  return std::max(pause > 0 ? std::min(most, pause) : most, 0.0);
}

void Gate::serve() {
  for (size_t i = 0; i < pending_.size();) {
    if (advance(pending_[i]))
      ++i;
    else
      pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  accept_some();
}

bool Gate::advance(Pending& pending) {
  const auto got = receive_some(pending.socket.get(), pending.received.data() + pending.bytes, pending.received.size() - pending.bytes);
  if (!got && monotonic_seconds() < pending.deadline) return true;
  if (!got || *got == 0) {
    stranger(got ? "left before it had proved the secret" : "did not prove the secret in time");
    return false;
  }
  pending.bytes += *got;
  const Decoded decoded = decode_frame({pending.received.data(), pending.bytes}, kMaxUnverifiedBytes - kFrameHeaderBytes);
  if (decoded.state == Decoded::State::incomplete && pending.bytes < pending.received.size()) return true;
  if (decoded.state != Decoded::State::frame || decoded.consumed != pending.bytes || !judge(pending, decoded.frame))
    stranger("sent something that is no proof of the secret");
  return false;
}

/// False for a stranger.
bool Gate::judge(Pending& pending, const Frame& frame) {
  const bool is_pair = frame.type == FrameType::pair_hello;
  if ((!is_pair && frame.type != FrameType::hello) || frame.sequence != 0) return false;
  const std::optional<Hello> hello = parse_hello(frame.payload);
  if (!hello) return false;
  if (hello->run_id != rules_.run_id) {
    refuse(pending, Reason::other_run, "another run listens there");
    return false;
  }
  const Digest& key = is_pair ? rules_.keys.pair : rules_.keys.control;
  if (!equal_constant_time(client_proof(key, pending.nonce, *hello), hello->proof)) {
    refuse(pending, Reason::wrong_secret, "the secret differs");
    return false;
  }
  if (const auto text = rules_.refuse(*hello, is_pair)) {
    refuse(pending, Reason::disagreement, *text);
    return true;
  }
  const std::string welcome = encode_frame(FrameType::welcome, 1, as_text(server_proof(key, pending.nonce, *hello)));
  tune(pending.socket.get());
  // answered before it enters: from then on another thread may send on it
  if (send_whole(pending.socket.get(), welcome)) rules_.enter(std::move(pending.socket), *hello, is_pair);
  return true;
}

void Gate::refuse(const Pending& pending, Reason reason, const std::string& text) const {
  send_whole(pending.socket.get(), encode_frame(FrameType::refused, 1, encode_refusal({reason, text})));
}

void Gate::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      const bool is_exhausted = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      if (is_exhausted && !pending_.empty()) pending_.pop_front();
      if (is_exhausted) paused_until_ = monotonic_seconds() + kPauseSeconds;
      return;
    }
    Pending next{.socket = std::move(socket), .nonce = random_digest(), .deadline = monotonic_seconds() + kUnverifiedSeconds};
    if (!send_whole(next.socket.get(), encode_frame(FrameType::challenge, 0, as_text(next.nonce)))) continue;
    if (pending_.size() >= rules_.max_pending) {
      pending_.pop_front();
      stranger("was pushed out by newer ones before it had proved the secret");
    }
    pending_.push_back(std::move(next));
  }
}

void Gate::stranger(const char* what) {
  ++strangers_;
  const double now = monotonic_seconds();
  if (now - last_warning_ < kWarningSeconds) return;
  log_warning("{} connection{} of strangers refused; the last one {}", strangers_, strangers_ == 1 ? "" : "s", what);
  last_warning_ = now;
  strangers_ = 0;
}

Introduction introduce(int socket, FrameType purpose, const Digest& key, Hello hello, double seconds, int wake) {
  const double deadline = monotonic_seconds() + seconds;
  Introduction result;
  Frame frame;
  std::string buffer;
  if (!receive_frame(socket, deadline, wake, frame, buffer) || frame.type != FrameType::challenge || frame.payload.size() != 32)
    return result;
  const Digest server_nonce = as_digest(frame.payload);
  hello.nonce = random_digest();
  hello.proof = client_proof(key, server_nonce, hello);
  if (!send_whole(socket, encode_frame(purpose, 0, encode_hello(hello)))) return result;
  if (!receive_frame(socket, deadline, wake, frame, buffer)) return result;
  if (frame.type == FrameType::refused) {
    if (const auto refusal = parse_refusal(frame.payload)) result = {Introduction::Answer::refused, *refusal};
  } else if (frame.type == FrameType::welcome && frame.payload.size() == 32 &&
             equal_constant_time(as_digest(frame.payload), server_proof(key, server_nonce, hello))) {
    result.answer = Introduction::Answer::welcome;
  }
  return result;
}

}  // namespace longlora::dist
