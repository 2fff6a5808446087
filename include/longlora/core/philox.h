#pragma once
// Counter-based randomness: Philox4x32-10 (Salmon et al., SC'11). No generator state exists anywhere in the program.
//
// key = seed; counter words = {element / 4, purpose << 24 | site << 16 | layer, step, row}. The same (seed, counter) gives the
// same four words on every machine, thread and rank.

#include <array>
#include <cstdint>

namespace longlora {

/// A number is never reused for another purpose.
enum class Purpose : uint8_t {
  initialise = 1,
  lora_dropout = 2,
  sampler_rows = 3,
  sampler_mix = 4,
  export_check = 5,
  generate = 6,
  lora_a = 7
};

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

struct PhiloxStream {
  uint64_t seed;
  Purpose purpose;
  uint8_t site = 0;
  uint16_t layer = 0;
  uint32_t step = 0;
  uint32_t row = 0;
  /// Second word of the counter.
  uint32_t place() const { return static_cast<uint32_t>(purpose) << 24 | uint32_t{site} << 16 | layer; }
  std::array<uint32_t, 4> words(uint32_t block) const;  // elements 4*block .. 4*block+3
};

/// 24-bit uniform in [0, 1).
inline float uniform_from(uint32_t word) { return static_cast<float>(word >> 8) * 0x1.0p-24f; }
/// Two standard normals (Box-Muller in fp64, rounded to fp32) from two words.
std::array<float, 2> normals_from(uint32_t a, uint32_t b);

}  // namespace longlora
