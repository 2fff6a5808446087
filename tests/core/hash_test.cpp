// SHA-256 against the published vectors of FIPS 180-4, and the order-free sums.

#include "longlora/core/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "core/sha256_compress.h"

namespace longlora {
namespace {

std::string hex_of(std::string_view text) { return to_hex(sha256(text)); }

TEST(Sha256, EqualsThePublishedVectors) {
  EXPECT_EQ(hex_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex_of("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(hex_of(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/// The standard, word by word, sharing nothing with the product.
Digest reference(std::string_view text) {
  const auto fraction_of_root = [](int prime, double power) {
    const long double root = power == 2 ? std::sqrt(static_cast<long double>(prime)) : std::cbrt(static_cast<long double>(prime));
    return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
  };
  std::vector<int> primes;
  for (int n = 2; primes.size() < 64; ++n)
    if (std::none_of(primes.begin(), primes.end(), [&](int p) { return n % p == 0; })) primes.push_back(n);
  std::vector<uint32_t> k, h;
  for (int i = 0; i < 64; ++i) k.push_back(fraction_of_root(primes[i], 3));
  for (int i = 0; i < 8; ++i) h.push_back(fraction_of_root(primes[i], 2));
  std::string m(text);
  m += '\x80';
  while (m.size() % 64 != 56) m += '\0';
  for (int i = 7; i >= 0; --i) m += static_cast<char>((uint64_t{text.size()} * 8) >> (8 * i));
  const auto r = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t at = 0; at < m.size(); at += 64) {
    std::vector<uint32_t> w(64), v = h;
    for (size_t i = 0; i < 64; ++i) w[i / 4 < 16 ? i / 4 : 0] = w[i / 4 < 16 ? i / 4 : 0] << 8 | static_cast<uint8_t>(m[at + i]);
    for (size_t i = 16; i < 64; ++i)
      w[i] = w[i - 16] + (r(w[i - 15], 7) ^ r(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
             (r(w[i - 2], 17) ^ r(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t one = v[7] + (r(v[4], 6) ^ r(v[4], 11) ^ r(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      const uint32_t two = (r(v[0], 2) ^ r(v[0], 13) ^ r(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      v.insert(v.begin(), one + two);
      v[4] += one;
      v.pop_back();
    }
    for (size_t i = 0; i < 8; ++i) h[i] += v[i];
  }
  Digest digest;
  for (size_t i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(h[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

TEST(Sha256, EveryLengthAndEverySplitGiveTheSameDigest) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 37 + i / 7);
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string_view part = std::string_view(text).substr(0, length);
    const Digest expected = reference(part);
    ASSERT_EQ(sha256(part), expected) << length;
    for (const size_t split : {size_t{0}, size_t{1}, length / 3, length / 2, length})
      if (split <= length)
        ASSERT_EQ(Sha256().update(part.substr(0, split)).update(part.substr(split)).finish(), expected) << length << " " << split;
  }
}

TEST(Sha256, ThePortableCompressionEqualsTheOneInUse) {
  std::array<uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string text(119, 'q');                                       // with padding and length exactly two blocks
  const Digest expected = sha256(text);
  text += '\x80';
  text += std::string("\0\0\0\0\0\0\x03\xb8", 8);                // 952 bits
  compress_portable(state, reinterpret_cast<const uint8_t*>(text.data()), 2);
  for (size_t i = 0; i < 32; ++i) ASSERT_EQ(expected[i], static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)))) << i;
}

TEST(Sha256, ValuesAreHashedAsLittleEndianBytes) {
  EXPECT_EQ(Sha256().update_value(uint64_t{0x636261}).finish(), sha256(std::string_view("abc\0\0\0\0\0", 8)));
}

TEST(Hex, RoundTripsAndRefusesOtherText) {
  std::array<uint8_t, 3> bytes{};
  EXPECT_TRUE(from_hex("00ff1a", bytes));
  EXPECT_EQ(to_hex(bytes), "00ff1a");
  for (const char* wrong : {"00ff1", "00ff1a0", "00ff1g", "00FF1a", ""}) EXPECT_FALSE(from_hex(wrong, bytes)) << wrong;
}

TEST(StateLanes, PartsInAnyOrderAddUpToTheWhole) {
  std::vector<uint32_t> words(1000);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i * 2654435761u);
  StateLanes whole;
  whole.add(words, 0);
  StateLanes parts, tail;
  tail.add(std::span(words).subspan(337), 337);
  parts += tail;
  parts.add(std::span(words).first(100), 0);
  parts.add(std::span(words).subspan(100, 237), 100);
  EXPECT_EQ(parts.lane, whole.lane);
}

TEST(StateLanes, EveryFlippedBitAndEverySwapIsSeen) {
  std::vector<uint32_t> words = {0, 0, 1, 0x3f800000, 0x80000000};
  const auto lanes = [&] { StateLanes sum; sum.add(words, 7); return sum.lane; };
  const auto before = lanes();
  for (uint32_t& word : words)
    for (int bit = 0; bit < 32; ++bit) {
      word ^= 1u << bit;
      EXPECT_NE(lanes(), before);
      word ^= 1u << bit;
    }
  std::swap(words[2], words[3]);
  EXPECT_NE(lanes(), before) << "a word's place counts";
}

TEST(StateLanes, EqualsTheDefinition) {
  const auto mix = [](uint64_t z) {
    z ^= z >> 30, z *= 0xbf58476d1ce4e5b9u, z ^= z >> 27, z *= 0x94d049bb133111ebu;
    return z ^ z >> 31;
  };
  const std::vector<uint32_t> word = {0xdeadbeef};
  StateLanes sum;
  sum.add(word, 41);
  EXPECT_EQ(sum.lane[0], mix(0x9e3779b97f4a7c15u * 42 + 0xdeadbeefu)) << "a changed constant breaks every recorded chain";
  EXPECT_EQ(sum.lane[1], mix(0xd1342543de82ef95u * 42 + 0xdeadbeefu));
}

}  // namespace
}  // namespace longlora
