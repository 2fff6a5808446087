#pragma once
// SHA-256 (FIPS 180-4), incremental, with SHA extensions where the CPU has them; hex; the 128-bit state digest lanes.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace longlora {

using Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  Sha256& update(std::span<const std::byte>);
  Sha256& update(std::string_view text) { return update(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class T> requires std::is_trivially_copyable_v<T>
  Sha256& update_value(const T& value) { return update(std::as_bytes(std::span(&value, 1))); }   // little-endian host
  Digest finish();                       // the object may not be used afterwards

 private:
  void block(const uint8_t* data, size_t blocks);
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> buffer_{};
  size_t buffered_ = 0;
  uint64_t total_bytes_ = 0;
};

Digest sha256(std::span<const std::byte>);
Digest sha256(std::string_view);
std::string to_hex(std::span<const uint8_t>);
bool from_hex(std::string_view hex, std::span<uint8_t> out);   // false when malformed

/// Two order-free 64-bit sums over 32-bit words: lane k = sum_i mix(c_k * (first_index + i + 1) + w_i) mod 2^64.
/// Detects accidents, not attackers. Threads and shards may compute parts in any order and add them.
/// Fixed for ever: another constant changes every recorded hash chain.
inline constexpr std::array<uint64_t, 2> kLaneConstants = {0x9e3779b97f4a7c15u, 0xd1342543de82ef95u};
struct StateLanes {
  std::array<uint64_t, 2> lane{};
  void add(std::span<const uint32_t> words, uint64_t first_index);
  StateLanes& operator+=(const StateLanes&);
};

}  // namespace longlora
