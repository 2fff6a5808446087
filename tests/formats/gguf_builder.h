#pragma once
// GGUF bytes put together by hand, independent of the product, so that every field can be wrong.

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors_builder.h"

namespace longlora {

inline std::string gguf_string(std::string_view text) { return little_endian(text.size(), 8) + std::string(text); }
inline std::string float_bytes(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return little_endian(bits, 4);
}
inline std::string u32_value(uint32_t v) { return little_endian(4, 4) + little_endian(v, 4); }
inline std::string f32_value(float v) { return little_endian(6, 4) + float_bytes(v); }
inline std::string bool_value(bool v) { return little_endian(7, 4) + little_endian(v, 1); }
inline std::string string_value(std::string_view v) { return little_endian(8, 4) + gguf_string(v); }
inline std::string array_value(uint32_t type, uint64_t count, std::string_view elements) {
  return little_endian(9, 4) + little_endian(type, 4) + little_endian(count, 8) + std::string(elements);
}
inline std::string strings_value(const std::vector<std::string>& list) {
  std::string elements;
  for (const std::string& s : list) elements += gguf_string(s);
  return array_value(8, list.size(), elements);
}

struct RawGgufTensor {
  std::string name;
  std::vector<uint64_t> dimensions;  // innermost first, as in the file
  uint32_t type = 0;
  std::string data;
  uint64_t offset = 0;  // set by place()
};

struct RawGguf {
  static constexpr uint64_t kLargestOffset = uint64_t{1} << 20;
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<RawGgufTensor> tensors;

  void set(const std::string& key, const std::string& value) {
    for (auto& [k, v] : values) {
      if (k == key) {
        v = value;
        return;
      }
    }
    values.emplace_back(key, value);
  }
  void remove(const std::string& key) {
    std::erase_if(values, [&](const auto& kv) { return kv.first == key; });
  }
  RawGgufTensor& tensor(std::string_view name) {
    for (RawGgufTensor& t : tensors) {
      if (t.name == name) return t;
    }
    tensors.push_back({std::string(name)});
    return tensors.back();
  }

  uint64_t aligned(uint64_t n) const { return (n + alignment - 1) / alignment * alignment; }
  void place() {
    uint64_t at = 0;
    for (RawGgufTensor& t : tensors) {
      t.offset = at;
      at = aligned(at + t.data.size());
    }
  }
  std::string header() const {
    std::string out = magic + little_endian(version, 4) + little_endian(tensors.size(), 8) + little_endian(values.size(), 8);
    for (const auto& [key, value] : values) out += gguf_string(key) + value;
    for (const RawGgufTensor& t : tensors) {
      out += gguf_string(t.name) + little_endian(t.dimensions.size(), 4);
      for (const uint64_t d : t.dimensions) out += little_endian(d, 8);
      out += little_endian(t.type, 4) + little_endian(t.offset, 8);
    }
    return out;
  }
  std::string file() const {
    std::string out = header();
    out.resize(aligned(out.size()), '\0');
    const size_t start = out.size();
    for (const RawGgufTensor& t : tensors) {
      if (t.offset > kLargestOffset) continue;  // a wrong offset shall not make a large file
      out.resize(std::max<size_t>(out.size(), start + t.offset), '\0');
      if (start + t.offset == out.size()) out += t.data;
    }
    return out;
  }
};

inline std::string floats(size_t count, const std::function<float(size_t)>& value) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += float_bytes(value(i));
  return out;
}

/// A whole model: hidden 64, 4 heads of 16, 2 KV heads, feed-forward 96, 1 layer, 10 tokens, untied, everything F32. Element i of a
/// matrix is its row, so that moved rows show.
inline RawGguf tiny_gguf() {
  RawGguf g;
  g.values = {{"general.architecture", string_value("llama")},
              {"llama.embedding_length", u32_value(64)},
              {"llama.feed_forward_length", u32_value(96)},
              {"llama.block_count", u32_value(1)},
              {"llama.attention.head_count", u32_value(4)},
              {"llama.attention.head_count_kv", u32_value(2)},
              {"llama.context_length", u32_value(2048)},
              {"llama.rope.freq_base", f32_value(100000.0f)},
              {"llama.attention.layer_norm_rms_epsilon", f32_value(1e-5f)}};
  const auto matrix = [&](const char* name, uint64_t rows, uint64_t columns) {
    g.tensors.push_back({name, {columns, rows}, 0, floats(rows * columns, [=](size_t i) { return static_cast<float>(i / columns); })});
  };
  const auto vector = [&](const char* name, uint64_t n) {
    g.tensors.push_back({name, {n}, 0, floats(n, [](size_t i) { return static_cast<float>(i) + 0.5f; })});
  };
  matrix("token_embd.weight", 10, 64);
  matrix("blk.0.attn_q.weight", 64, 64);
  matrix("blk.0.attn_k.weight", 32, 64);
  matrix("blk.0.attn_v.weight", 32, 64);
  matrix("blk.0.attn_output.weight", 64, 64);
  matrix("blk.0.ffn_gate.weight", 96, 64);
  matrix("blk.0.ffn_up.weight", 96, 64);
  matrix("blk.0.ffn_down.weight", 64, 96);
  vector("blk.0.attn_norm.weight", 64);
  vector("blk.0.ffn_norm.weight", 64);
  vector("output_norm.weight", 64);
  matrix("output.weight", 10, 64);
  g.place();
  return g;
}

}  // namespace longlora
