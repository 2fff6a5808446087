#pragma once
// safetensors bytes put together by hand, independent of the product's writer, so that every field can be wrong.

#include <cstdint>
#include <string>
#include <vector>

namespace longlora {

struct RawTensor {
  std::string name, dtype = "F32";
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;

  std::string entry_body() const {
    std::string s = "{\"dtype\":\"" + dtype + "\",\"shape\":[";
    for (size_t i = 0; i < shape.size(); ++i) s += (i ? "," : "") + std::to_string(shape[i]);
    return s + "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
  }
  std::string entry() const { return "\"" + name + "\":" + entry_body(); }
};

inline std::string little_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

inline std::string header_of(const std::vector<RawTensor>& tensors, std::string_view metadata = "") {
  std::string json = "{" + std::string(metadata);
  for (const RawTensor& t : tensors) json += (json.size() > 1 ? "," : "") + t.entry();
  return json + "}";
}

inline std::string file_of(std::string_view header, std::string_view payload) {
  return little_endian(header.size(), 8) + std::string(header) + std::string(payload);
}

/// Payload bytes 0, 1, 2, ...: a read can be checked in the head.
inline std::string counting_bytes(size_t count) {
  std::string out(count, '\0');
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<char>(i);
  return out;
}

}  // namespace longlora
