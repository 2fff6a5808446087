#pragma once
// Quantised blocks of GGUF: which types are read, how many bytes they take, and their values.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace longlora {

struct GgufBlock {
  const char* name;
  uint32_t id;
  uint32_t elements, bytes;  // of one block
};

/// Nothing when the type is not supported.
const GgufBlock* gguf_block(uint32_t type);
/// "Q5_0 (6)", or the number alone when unknown.
std::string gguf_type_name(uint32_t type);
std::string supported_gguf_types();

/// fl(fl(d q) + m) in fp32 for whole blocks. Returns the index of the first block whose d or m is not finite, if any.
std::optional<size_t> dequantise(const GgufBlock&, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace longlora
