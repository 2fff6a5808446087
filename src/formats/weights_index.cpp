#include "formats/weights_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "formats/json_scanner.h"
#include "formats/problems.h"
#include "formats/safetensors_header.h"
#include "longlora/core/json.h"

namespace longlora {

namespace {

constexpr size_t kIndexDepth = 16;
constexpr std::string_view kEnding = ".safetensors";

void read_metadata(JsonScanner& scan, WeightIndex& index) {
  scan.open('{');
  while (scan.next('}')) {
    const std::string key = scan.key(kMaxIndexBytes, "a metadata key");
    const std::string_view value = scan.any_value();
    if (key != "total_size") continue;
    uint64_t size = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), size);
    if (error == std::errc() && end == value.data() + value.size()) index.total_size = size;  // some writers store "1.3e10"
  }
}

void read_weight_map(JsonScanner& scan, WeightIndex& index, Problems& problems) {
  std::map<std::string, uint32_t> number_of_shard;
  scan.open('{');
  while (scan.next('}')) {
    if (index.tensors.size() == kMaxIndexEntries) scan.refuse(fmt::format("at most {} entries", kMaxIndexEntries));
    std::string name = scan.key(kMaxTensorNameBytes, "a tensor name");
    const std::string shard = scan.string(4096, "a shard name");
    if (!is_shard_name(shard)) {
      problems.add(fmt::format("weight_map.{}", escape(name)),
                   fmt::format("expected the name of a .safetensors file in this folder, found '{}'", escape(shard)));
      continue;
    }
    const auto [at, is_new] = number_of_shard.emplace(shard, static_cast<uint32_t>(number_of_shard.size()));
    if (is_new) index.shards.push_back(shard);
    index.tensors.emplace_back(std::move(name), at->second);
  }
}

/// Shards in name order, whatever order the map had.
void sort_index(WeightIndex& index) {
  std::vector<std::string> sorted = index.shards;
  std::sort(sorted.begin(), sorted.end());
  for (auto& [name, shard] : index.tensors) {
    shard = static_cast<uint32_t>(std::lower_bound(sorted.begin(), sorted.end(), index.shards[shard]) - sorted.begin());
  }
  index.shards = std::move(sorted);
  std::sort(index.tensors.begin(), index.tensors.end());
}

}  // namespace

bool is_shard_name(std::string_view name) {
  const auto is_alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  if (name.size() <= kEnding.size() || !name.ends_with(kEnding) || !is_alphanumeric(name[0]) || name.size() > 255) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) { return is_alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

WeightIndex parse_weight_index(std::string_view text, std::string_view source) {
  WeightIndex index;
  Problems problems(source);
  JsonScanner scan(text, source, 0, kIndexDepth);
  bool has_metadata = false, has_map = false;
  scan.open('{');
  while (scan.next('}')) {
    const std::string key = scan.key(64, "a key");
    if (key == "metadata" && !has_metadata) {
      has_metadata = true;
      read_metadata(scan, index);
    } else if (key == "weight_map" && !has_map) {
      has_map = true;
      read_weight_map(scan, index, problems);
    } else {
      scan.refuse(fmt::format("metadata and weight_map once each, not '{}' (before this byte)", escape(key)));
    }
  }
  scan.end();
  if (!has_map) problems.add("weight_map", "expected an object, found none");
  sort_index(index);
  for (size_t i = 1; i < index.tensors.size(); ++i) {
    if (index.tensors[i].first == index.tensors[i - 1].first) {
      problems.add(fmt::format("weight_map.{}", escape(index.tensors[i].first)), "expected every tensor once, found it twice");
    }
  }
  problems.raise(ErrorKind::data, "correct the index or download it again");
  return index;
}

std::string make_weight_index(const std::map<std::string, std::string>& weight_map, uint64_t total_bytes, uint64_t total_parameters) {
  std::string out =
      fmt::format("{{\n  \"metadata\": {{\n    \"total_parameters\": {},\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{",
                  total_parameters, total_bytes);
  for (bool first = true; const auto& [name, shard] : weight_map) {
    out += fmt::format("{}\n    {}: {}", first ? "" : ",", json_quote(name), json_quote(shard));
    first = false;
  }
  return out + "\n  }\n}\n";
}

}  // namespace longlora
