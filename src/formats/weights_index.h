#pragma once
// model.safetensors.index.json: which shard holds which tensor.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace longlora {

inline constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;
inline constexpr size_t kMaxIndexEntries = 1'000'000;

struct WeightIndex {
  std::vector<std::string> shards;                        // sorted, each a single path component
  std::vector<std::pair<std::string, uint32_t>> tensors;  // sorted by name; index into shards
  std::optional<uint64_t> total_size;                     // absent or not an integer: nothing to compare
};

/// ErrorKind::data "SOURCE: byte N" or "SOURCE: weight_map.NAME".
WeightIndex parse_weight_index(std::string_view text, std::string_view source);
/// ^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$
bool is_shard_name(std::string_view);

}  // namespace longlora
