#pragma once
// The header of a safetensors file: parsing and checking, writing. No file access here, so that tests and fuzzers need none.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/formats/weights.h"

namespace longlora {

inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr size_t kMaxTensors = 65'536;
inline constexpr size_t kMaxTensorNameBytes = 512;
inline constexpr size_t kMaxRank = 8;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // sorted by name; offset is absolute in the file
  std::map<std::string, std::string> metadata;
};

/// `text` is the header JSON (after its u64 length), `file_bytes` the size of the whole file. Throws ErrorKind::data with
/// "SOURCE: byte N" or "SOURCE: tensor NAME"; of wrong tensors at most 20 are listed together.
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_bytes, std::string_view source);

/// Length, JSON and padding for tensors that lie back to back in this order.
std::string make_safetensors_header(std::span<const SafetensorsWriter::Declared>, const std::map<std::string, std::string>& metadata);

}  // namespace longlora
