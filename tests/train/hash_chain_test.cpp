#include "longlora/train/hash_chain.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "support/error_of.h"

namespace longlora {
namespace {

template <class T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

Digest filled(uint8_t value) {
  Digest digest;
  digest.fill(value);
  return digest;
}

TEST(HashChain, StartIsTheDigestOfItsParts) {
  std::string bytes = "longlora-chain-1";
  for (uint8_t part : {1, 2, 3, 4}) bytes.append(32, static_cast<char>(part));
  EXPECT_EQ(chain_start(filled(1), filled(2), filled(3), filled(4)), sha256(bytes));
}

TEST(HashChain, LinkIsTheDigestOfItsFieldsInOrder) {
  const std::vector<std::pair<uint64_t, uint64_t>> skipped = {{64, 128}};
  std::string ranges, bytes(32, '\x09');
  append(ranges, uint64_t{64}), append(ranges, uint64_t{128});
  append(bytes, uint64_t{7}), append(bytes, 1.25), append(bytes, 0.5);
  bytes.append(32, '\x05');
  append(bytes, uint8_t{1}), append(bytes, uint64_t{192}), append(bytes, uint64_t{64});
  const Digest ranges_digest = sha256(ranges);
  bytes.append(reinterpret_cast<const char*>(ranges_digest.data()), 32);
  const ChainLink link{.step = 7,
                       .loss = 1.25,
                       .grad_norm = 0.5,
                       .state = filled(5),
                       .outcome = Outcome::skipped,
                       .first_row = 192,
                       .rows = 64,
                       .skipped = &skipped};
  EXPECT_EQ(chain_next(filled(9), link), sha256(bytes));
}

TEST(HashChain, EveryFieldMatters) {
  const std::vector<std::pair<uint64_t, uint64_t>> skipped = {{0, 8}};
  const ChainLink base{.step = 1, .loss = 2, .grad_norm = 3, .state = filled(4), .first_row = 5, .rows = 6};
  std::vector<ChainLink> links(8, base);
  links[1].step = 2, links[2].loss = std::nextafter(2.0, 3.0), links[3].grad_norm = -3, links[4].state = filled(5);
  links[5].outcome = Outcome::skipped, links[6].first_row = 6, links[7].skipped = &skipped;
  std::set<std::string> seen;
  for (const ChainLink& link : links) seen.insert(digest_hex(chain_next(filled(0), link)));
  EXPECT_EQ(seen.size(), links.size());
}

TEST(HashChain, HexRoundTripsAndRefusesNonsense) {
  EXPECT_EQ(digest_from_hex(digest_hex(filled(0xab)), "here"), filled(0xab));
  EXPECT_EQ(error_of([] { digest_from_hex("xyz", "state.json: chain"); }),
            "'xyz' is not a SHA-256 digest (state.json: chain); restore the file or take an older checkpoint with --resume PATH");
}

}  // namespace
}  // namespace longlora
