#include "longlora/core/philox.h"

#include <cmath>
#include <numbers>

namespace longlora {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0], second = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9u;  // golden ratio
    key[1] += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

std::array<uint32_t, 4> PhiloxStream::words(uint32_t block) const {
  return philox4x32({block, place(), step, row}, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

std::array<float, 2> normals_from(uint32_t a, uint32_t b) {
  const double uniform = (static_cast<double>(a) + 0.5) * 0x1p-32;  // never 0: the logarithm is finite
  const double radius = std::sqrt(-2.0 * std::log(uniform));
  const double angle = 2.0 * std::numbers::pi * (static_cast<double>(b) * 0x1p-32);
  return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

}  // namespace longlora
