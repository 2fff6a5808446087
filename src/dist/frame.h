#pragma once
// What travels on control connections and in handshakes (docs/distributed.md, "Rendezvous and trust"). Encoding and decoding are pure
// functions over bytes: no length from the wire is allocated, and any input is answered with a frame, "incomplete" or "bad".
//
// Frame: u32 magic "LLR1", u16 version, u16 type, u32 length, u32 sequence (0, 1, ... per connection and direction), payload.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/hash.h"

namespace longlora::dist {

inline constexpr uint32_t kFrameMagic = 0x31524c4c;  // "LLR1"
inline constexpr uint16_t kFrameVersion = 1;
inline constexpr size_t kFrameHeaderBytes = 16;
inline constexpr size_t kMaxPayloadBytes = 65536;
inline constexpr size_t kMaxUnverifiedBytes = 512;
inline constexpr size_t kMaxRunIdBytes = 128;
inline constexpr size_t kMaxTextBytes = 1024;

enum class FrameType : uint16_t {
  challenge = 1,   // server: nonce
  hello = 2,       // client of the control connection
  pair_hello = 3,  // client of a data connection: the same fields under the pair key
  welcome = 4,     // server: proof that it knows the secret too
  refused = 5,     // server: Refusal
  listen = 6,      // client: where it accepts data connections
  peers = 7,       // server: part of the table of those addresses
  heartbeat = 8,   // both: Activity
  probe = 9,       // server: answer with a heartbeat now
  report = 10,     // client: a call has reached its deadline
  gone = 11,       // server: a rank has ended normally
  goodbye = 12,    // both: the sender has ended normally
  abort = 13,      // both: the run has failed, with the reason
};

struct Frame {
  FrameType type = FrameType::challenge;
  uint32_t sequence = 0;
  std::string_view payload;  // of the decoded bytes
};

struct Decoded {
  enum class State { incomplete, frame, bad } state = State::incomplete;
  Frame frame;
  size_t consumed = 0;  // bytes of the frame
};

/// The first frame of `bytes`; a length over `max_payload` is bad as soon as the header is there.
Decoded decode_frame(std::string_view bytes, size_t max_payload);
std::string encode_frame(FrameType, uint32_t sequence, std::string_view payload);

/// Everything two ranks must agree on, and who the sender is.
struct Hello {
  Digest nonce{};
  std::string run_id;
  uint32_t rank = 0, world = 0, local_rank = 0, sequence_parallel = 0;
  Digest host{}, binary{}, config{};
  Digest proof{};  // HMAC(key, "client" | both nonces | all fields)
};
std::string encode_hello(const Hello&);
std::optional<Hello> parse_hello(std::string_view payload);
Digest client_proof(const Digest& key, const Digest& server_nonce, const Hello&);
Digest server_proof(const Digest& key, const Digest& server_nonce, const Hello&);

enum class Reason : uint8_t { other_run = 1, wrong_secret = 2, disagreement = 3 };
struct Refusal {
  Reason reason = Reason::other_run;
  std::string text;
};
std::string encode_refusal(const Refusal&);
std::optional<Refusal> parse_refusal(std::string_view payload);

/// What a rank does, for heartbeats and the search for the rank that all others wait for.
struct Activity {
  std::string phase;  // at most 32 bytes
  int64_t step = 0;
  uint64_t sequence = 0;  // of the last call
  uint8_t operation = 0;
  bool in_call = false;
  int32_t waits_for = -1;  // rank, when blocked
};
std::string encode_activity(const Activity&);
std::optional<Activity> parse_activity(std::string_view payload);

struct Report {
  int32_t suspect = -1;
  std::string call;  // "all_gather #812"
};
std::string encode_report(const Report&);
std::optional<Report> parse_report(std::string_view payload);

/// Part of the peer table: addresses of the ranks first, first + 1, ...
struct PeerPart {
  uint32_t first = 0;
  std::vector<std::string> addresses;
};
inline constexpr size_t kMaxAddressBytes = 120, kPeersPerFrame = 256;
std::string encode_peers(const PeerPart&);
std::optional<PeerPart> parse_peers(std::string_view payload);

std::string encode_text(std::string_view);
std::optional<std::string> parse_text(std::string_view payload);
std::string encode_rank(int rank);
std::optional<int> parse_rank(std::string_view payload);

}  // namespace longlora::dist
