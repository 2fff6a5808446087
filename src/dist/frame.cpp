#include "dist/frame.h"

#include "dist/bytes.h"
#include "dist/hmac.h"
#include "dist/operation.h"

namespace longlora::dist {
namespace {

constexpr size_t kMaxPhaseBytes = 32;

std::string hello_fields(const Hello& hello) {
  ByteWriter out;
  out.raw(hello.nonce).text(hello.run_id, kMaxRunIdBytes);
  out.value(hello.rank).value(hello.world).value(hello.local_rank).value(hello.sequence_parallel);
  return out.raw(hello.host).raw(hello.binary).raw(hello.config).bytes();
}

std::string digest_text(const Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

template <class T>
std::optional<T> if_complete(const ByteReader& in, T value) {
  if (!in.complete()) return std::nullopt;
  return value;
}

}  // namespace

Decoded decode_frame(std::string_view bytes, size_t max_payload) {
  Decoded result;
  if (bytes.size() < kFrameHeaderBytes) {
    // the magic is checked as far as it is there, so that a stranger's first byte is enough
    const std::string magic = ByteWriter().value(kFrameMagic).bytes();
    const size_t seen = std::min(bytes.size(), magic.size());
    if (bytes.substr(0, seen) != std::string_view(magic).substr(0, seen)) result.state = Decoded::State::bad;
    return result;
  }
  ByteReader in(bytes.substr(0, kFrameHeaderBytes));
  const auto magic = in.value<uint32_t>();
  const auto version = in.value<uint16_t>(), type = in.value<uint16_t>();
  const auto length = in.value<uint32_t>(), sequence = in.value<uint32_t>();
  const bool known = type >= static_cast<uint16_t>(FrameType::challenge) && type <= static_cast<uint16_t>(FrameType::abort);
  if (magic != kFrameMagic || version != kFrameVersion || !known || length > std::min(max_payload, kMaxPayloadBytes)) {
    result.state = Decoded::State::bad;
    return result;
  }
  if (bytes.size() - kFrameHeaderBytes < length) return result;
  result.state = Decoded::State::frame;
  result.frame = {static_cast<FrameType>(type), sequence, bytes.substr(kFrameHeaderBytes, length)};
  result.consumed = kFrameHeaderBytes + length;
  return result;
}

std::string encode_frame(FrameType type, uint32_t sequence, std::string_view payload) {
  ByteWriter out;
  out.value(kFrameMagic).value(kFrameVersion).value(static_cast<uint16_t>(type));
  out.value(static_cast<uint32_t>(payload.size())).value(sequence);
  return out.bytes() + std::string(payload);
}

std::string encode_hello(const Hello& hello) { return hello_fields(hello) + digest_text(hello.proof); }

std::optional<Hello> parse_hello(std::string_view payload) {
  ByteReader in(payload);
  Hello hello;
  in.raw(hello.nonce);
  hello.run_id = in.text(kMaxRunIdBytes);
  for (uint32_t* field : {&hello.rank, &hello.world, &hello.local_rank, &hello.sequence_parallel}) *field = in.value<uint32_t>();
  for (Digest* field : {&hello.host, &hello.binary, &hello.config, &hello.proof}) in.raw(*field);
  return if_complete(in, hello);
}

Digest client_proof(const Digest& key, const Digest& server_nonce, const Hello& hello) {
  return hmac_sha256(key, "client" + digest_text(server_nonce) + hello_fields(hello));  // the fields begin with the client's nonce
}

Digest server_proof(const Digest& key, const Digest& server_nonce, const Hello& hello) {
  return hmac_sha256(key, "server" + digest_text(server_nonce) + digest_text(hello.nonce) + digest_text(hello.proof));
}

std::string encode_refusal(const Refusal& refusal) {
  return ByteWriter().value(static_cast<uint8_t>(refusal.reason)).text(refusal.text, kMaxTextBytes).bytes();
}

std::optional<Refusal> parse_refusal(std::string_view payload) {
  ByteReader in(payload);
  const auto reason = in.value<uint8_t>();
  Refusal refusal{static_cast<Reason>(reason), in.text(kMaxTextBytes)};
  if (reason < 1 || reason > 3) return std::nullopt;
  return if_complete(in, refusal);
}

std::string encode_activity(const Activity& activity) {
  ByteWriter out;
  out.text(activity.phase, kMaxPhaseBytes).value(activity.step).value(activity.sequence).value(activity.operation);
  return out.value(static_cast<uint8_t>(activity.in_call)).value(activity.waits_for).bytes();
}

std::optional<Activity> parse_activity(std::string_view payload) {
  ByteReader in(payload);
  Activity activity;
  activity.phase = in.text(kMaxPhaseBytes);
  activity.step = in.value<int64_t>();
  activity.sequence = in.value<uint64_t>();
  activity.operation = in.value<uint8_t>();
  activity.in_call = in.value<uint8_t>() != 0;
  activity.waits_for = in.value<int32_t>();
  if (activity.operation >= kOperations) return std::nullopt;
  return if_complete(in, activity);
}

std::string encode_report(const Report& report) { return ByteWriter().value(report.suspect).text(report.call, kMaxTextBytes).bytes(); }

std::optional<Report> parse_report(std::string_view payload) {
  ByteReader in(payload);
  Report report;
  report.suspect = in.value<int32_t>();
  report.call = in.text(kMaxTextBytes);
  return if_complete(in, report);
}

std::string encode_peers(const PeerPart& part) {
  ByteWriter out;
  out.value(part.first).value(static_cast<uint16_t>(part.addresses.size()));
  for (const std::string& address : part.addresses) out.text(address, kMaxAddressBytes);
  return out.bytes();
}

std::optional<PeerPart> parse_peers(std::string_view payload) {
  ByteReader in(payload);
  PeerPart part{in.value<uint32_t>(), {}};
  const size_t count = in.value<uint16_t>();
  if (count > kPeersPerFrame) return std::nullopt;
  for (size_t i = 0; i < count && in.ok(); ++i) part.addresses.push_back(in.text(kMaxAddressBytes));
  return if_complete(in, part);
}

std::string encode_text(std::string_view text) { return ByteWriter().text(text, kMaxTextBytes).bytes(); }

std::optional<std::string> parse_text(std::string_view payload) {
  ByteReader in(payload);
  std::string text = in.text(kMaxTextBytes);
  return if_complete(in, text);
}

std::string encode_rank(int rank) { return ByteWriter().value(static_cast<int32_t>(rank)).bytes(); }

std::optional<int> parse_rank(std::string_view payload) {
  ByteReader in(payload);
  const int rank = in.value<int32_t>();
  return if_complete(in, rank);
}

}  // namespace longlora::dist
