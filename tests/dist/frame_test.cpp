#include "dist/frame.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace longlora::dist {
namespace {

Hello some_hello() {
  Hello hello;
  hello.run_id = "run-7";
  hello.rank = 3, hello.world = 8, hello.local_rank = 1, hello.sequence_parallel = 2;
  hello.nonce = sha256("n"), hello.host = sha256("h"), hello.binary = sha256("b"), hello.config = sha256("c"), hello.proof = sha256("p");
  return hello;
}

TEST(Frame, DecodesWhatItEncodes) {
  const std::string bytes = encode_frame(FrameType::heartbeat, 7, "payload") + "next";
  const Decoded decoded = decode_frame(bytes, kMaxPayloadBytes);
  ASSERT_EQ(decoded.state, Decoded::State::frame);
  EXPECT_EQ(decoded.frame.type, FrameType::heartbeat);
  EXPECT_EQ(decoded.frame.sequence, 7u);
  EXPECT_EQ(decoded.frame.payload, "payload");
  EXPECT_EQ(bytes.substr(decoded.consumed), "next");
  for (size_t cut = 0; cut < decoded.consumed; ++cut)
    EXPECT_EQ(decode_frame(bytes.substr(0, cut), kMaxPayloadBytes).state, Decoded::State::incomplete) << cut;
}

TEST(Frame, RefusesWhatIsNone) {
  const std::string good = encode_frame(FrameType::hello, 0, "x");
  const auto changed = [&](size_t at, char to) {
    std::string bytes = good;
    bytes[at] = to;
    return decode_frame(bytes, kMaxPayloadBytes).state;
  };
  for (const size_t at : {0, 1, 2, 3}) EXPECT_EQ(changed(at, '?'), Decoded::State::bad) << "magic";
  EXPECT_EQ(changed(4, 2), Decoded::State::bad) << "version";
  EXPECT_EQ(changed(6, 0), Decoded::State::bad) << "type";
  EXPECT_EQ(changed(6, 99), Decoded::State::bad) << "type";
  EXPECT_EQ(changed(11, '\x7f'), Decoded::State::bad) << "length";
  EXPECT_EQ(decode_frame(good.substr(0, kFrameHeaderBytes), 0).state, Decoded::State::bad) << "over the limit, before the payload is there";
  EXPECT_EQ(decode_frame("G", kMaxPayloadBytes).state, Decoded::State::bad) << "a stranger's first byte";
}

TEST(Frame, HelloFitsTheUnverifiedLimitAndComesBack) {
  Hello hello = some_hello();
  hello.run_id = std::string(kMaxRunIdBytes, 'r');
  const std::string payload = encode_hello(hello);
  EXPECT_LE(kFrameHeaderBytes + payload.size(), kMaxUnverifiedBytes);
  const auto parsed = parse_hello(payload);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(encode_hello(*parsed), payload);
  EXPECT_FALSE(parse_hello(payload + "x"));
  for (size_t cut = 0; cut < payload.size(); ++cut) EXPECT_FALSE(parse_hello(payload.substr(0, cut))) << cut;
}

TEST(Frame, ProofsDependOnEveryField) {
  const Digest key = sha256("key"), nonce = sha256("server");
  const Hello hello = some_hello();
  const Digest proof = client_proof(key, nonce, hello);
  EXPECT_NE(client_proof(sha256("other"), nonce, hello), proof);
  EXPECT_NE(client_proof(key, sha256("other"), hello), proof);
  EXPECT_NE(server_proof(key, nonce, hello), proof);
  const std::vector<std::function<void(Hello&)>> changes = {
      [](Hello& h) { h.nonce[31] ^= 1; }, [](Hello& h) { h.run_id += "x"; },  [](Hello& h) { ++h.rank; },
      [](Hello& h) { ++h.world; },        [](Hello& h) { ++h.local_rank; },   [](Hello& h) { ++h.sequence_parallel; },
      [](Hello& h) { h.host[0] ^= 1; },   [](Hello& h) { h.binary[0] ^= 1; }, [](Hello& h) { h.config[0] ^= 1; },
  };
  for (const auto& change : changes) {
    Hello other = hello;
    change(other);
    EXPECT_NE(client_proof(key, nonce, other), proof);
  }
}

template <class M, class Encode>
void check_round_trip(const std::optional<M>& message, Encode encode, std::string_view payload) {
  if (message) {
    EXPECT_EQ(encode(*message), payload);
  }
}

/// Reads every payload as every message; what parses must print to the same bytes.
void parse_as_all(std::string_view payload) {
  check_round_trip(parse_hello(payload), encode_hello, payload);
  check_round_trip(parse_refusal(payload), encode_refusal, payload);
  check_round_trip(parse_report(payload), encode_report, payload);
  check_round_trip(parse_peers(payload), encode_peers, payload);
  check_round_trip(parse_text(payload), encode_text, payload);
  check_round_trip(parse_rank(payload), encode_rank, payload);
  parse_activity(payload);
}

TEST(Frame, SurvivesAHundredThousandMutations) {
  const std::vector<std::string> seeds = {
      encode_frame(FrameType::hello, 0, encode_hello(some_hello())),
      encode_frame(FrameType::refused, 1, encode_refusal({Reason::disagreement, "rank 3 has world size 4"})),
      encode_frame(FrameType::heartbeat, 9, encode_activity({"step", 12, 812, 4, true, 2})),
      encode_frame(FrameType::report, 3, encode_report({2, "all_gather #812"})),
      encode_frame(FrameType::peers, 2, encode_peers({0, {"/run/x.sock", "10.0.0.1 29500"}})),
      encode_frame(FrameType::abort, 5, encode_text("rank 3 is lost")),
  };
  std::mt19937 random(7);
  int frames = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string bytes = seeds[random() % seeds.size()];
    for (unsigned change = random() % 4; change > 0; --change) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, 1 + random() % 8, static_cast<char>(random()));
      }
      if (bytes.empty()) bytes = "L";
    }
    const Decoded decoded = decode_frame(bytes, kMaxPayloadBytes);
    if (decoded.state == Decoded::State::frame) {
      ASSERT_LE(decoded.consumed, bytes.size());
      parse_as_all(decoded.frame.payload);
      ++frames;
    }
    parse_as_all(std::string_view(bytes).substr(std::min(bytes.size(), kFrameHeaderBytes)));
  }
  EXPECT_GT(frames, 10'000);  // the mutations reach the parsers
}

}  // namespace
}  // namespace longlora::dist
