#include "dist/link.h"

#include "longlora/core/clock.h"

namespace longlora::dist {
namespace {

constexpr size_t kReadBytes = 16384;
constexpr size_t kMaxOutputBytes = size_t{16} << 20;  // of a peer that reads nothing; its silence ends the run long before

}  // namespace

Link::Link(int rank, Descriptor socket) : heard(monotonic_seconds()), rank_(rank), socket_(std::move(socket)) {}

void Link::queue(FrameType type, std::string_view payload) {
  if (out_.size() > kMaxOutputBytes) return;
  out_ += encode_frame(type, next_out_++, payload);
}

bool Link::flush() {
  while (!out_.empty()) {
    const auto sent = send_some(socket_.get(), out_);
    if (!sent) return false;
    if (*sent == 0) return true;
    out_.erase(0, *sent);
  }
  return true;
}

bool Link::fill() {
  while (in_.size() <= kFrameHeaderBytes + kMaxPayloadBytes) {
    char buffer[kReadBytes];
    const auto got = receive_some(socket_.get(), buffer, sizeof buffer);
    if (!got) return true;
    if (*got == 0) return false;
    heard = monotonic_seconds();
    in_.append(buffer, *got);
  }
  return true;
}

std::optional<Link::Message> Link::next() {
  const Decoded decoded = decode_frame(in_, kMaxPayloadBytes);
  if (decoded.state == Decoded::State::bad) is_bad_ = true;
  if (decoded.state != Decoded::State::frame) return std::nullopt;
  if (decoded.frame.sequence != next_in_++) is_bad_ = true;
  Message message{decoded.frame.type, std::string(decoded.frame.payload)};
  in_.erase(0, decoded.consumed);
  if (is_bad_) return std::nullopt;
  return message;
}

void Link::end_output() { ::shutdown(socket_.get(), SHUT_WR); }

}  // namespace longlora::dist
