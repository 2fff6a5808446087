#include "formats/gguf_blocks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "longlora/core/dtype.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

enum Type : uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBF16 = 30 };

constexpr GgufBlock kBlocks[] = {{"F32", kF32, 1, 4},     {"F16", kF16, 1, 2},     {"BF16", kBF16, 1, 2},
                                 {"Q4_0", kQ4_0, 32, 18}, {"Q4_1", kQ4_1, 32, 20}, {"Q8_0", kQ8_0, 32, 34}};

struct Named {
  uint32_t id;
  const char* name;
};
constexpr Named kUnsupported[] = {{6, "Q5_0"},  {7, "Q5_1"},  {9, "Q8_1"}, {10, "Q2_K"}, {11, "Q3_K"}, {12, "Q4_K"}, {13, "Q5_K"},
                                  {14, "Q6_K"}, {15, "Q8_K"}, {24, "I8"},  {25, "I16"},  {26, "I32"},  {27, "I64"},  {28, "F64"}};

uint16_t half_at(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

/// 16 bytes of nibbles: byte b holds element b in its low and b + 16 in its high half.
template <class F>
void each_nibble(const std::byte* packed, F&& f) {
  for (size_t b = 0; b < 16; ++b) {
    const unsigned byte = std::to_integer<unsigned>(packed[b]);
    f(b, byte & 15u);
    f(b + 16, byte >> 4);
  }
}

bool q4_0(const std::byte* block, float* out) {
  const float d = f16_to_float(half_at(block));
  each_nibble(block + 2, [&](size_t i, unsigned q) { out[i] = d * static_cast<float>(static_cast<int>(q) - 8); });
  return std::isfinite(d);
}

bool q4_1(const std::byte* block, float* out) {
  const float d = f16_to_float(half_at(block)), m = f16_to_float(half_at(block + 2));
  // d has 11 significant bits and q four: the product is exact, so a fused multiply-add gives the same value
  each_nibble(block + 4, [&](size_t i, unsigned q) { out[i] = d * static_cast<float>(q) + m; });
  return std::isfinite(d) && std::isfinite(m);
}

bool q8_0(const std::byte* block, float* out) {
  const float d = f16_to_float(half_at(block));
  for (size_t i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(std::to_integer<uint8_t>(block[2 + i])));
  return std::isfinite(d);
}

template <class F>
std::optional<size_t> each_block(const GgufBlock& type, std::span<const std::byte> blocks, std::span<float> out, F&& one) {
  std::optional<size_t> bad;
  for (size_t block = 0; block * type.bytes < blocks.size(); ++block) {
    if (!one(blocks.data() + block * type.bytes, out.data() + block * type.elements) && !bad) bad = block;
  }
  return bad;
}

}  // namespace

const GgufBlock* gguf_block(uint32_t type) {
  for (const GgufBlock& block : kBlocks) {
    if (block.id == type) return &block;
  }
  return nullptr;
}

std::string gguf_type_name(uint32_t type) {
  if (const GgufBlock* block = gguf_block(type)) return fmt::format("{} ({})", block->name, type);
  for (const Named& named : kUnsupported) {
    if (named.id == type) return fmt::format("{} ({})", named.name, type);
  }
  return fmt::format("{}", type);
}

std::string supported_gguf_types() {
  std::string list;
  for (const GgufBlock& block : kBlocks) list += fmt::format("{}{}", list.empty() ? "" : " ", block.name);
  return list;
}

std::optional<size_t> dequantise(const GgufBlock& type, std::span<const std::byte> blocks, std::span<float> out) {
  LONGLORA_INVARIANT(blocks.size() % type.bytes == 0 && blocks.size() / type.bytes * type.elements == out.size());
  switch (type.id) {
    case kF32:
      std::memcpy(out.data(), blocks.data(), blocks.size());
      return std::nullopt;
    case kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = f16_to_float(half_at(blocks.data() + 2 * i));
      return std::nullopt;
    case kBF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = bf16_to_float(half_at(blocks.data() + 2 * i));
      return std::nullopt;
    case kQ4_0:
      return each_block(type, blocks, out, q4_0);
    case kQ4_1:
      return each_block(type, blocks, out, q4_1);
    case kQ8_0:
      return each_block(type, blocks, out, q8_0);
  }
  LONGLORA_INVARIANT(!"unknown GGUF type");
}

}  // namespace longlora
