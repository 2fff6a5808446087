#pragma once
// The header of a GGUF file: typed metadata and tensor records, read with limits (docs/formats.md). Big-endian files, version 1 and
// split files are refused by name. Nothing of the data section is read.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "longlora/core/dtype.h"
#include "longlora/core/files.h"

namespace longlora {

/// Value types of the file, by their ids.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

struct GgufNumbers {  // an array of numbers as it lies in the file
  GgufType type;
  std::vector<std::byte> bytes;
  size_t count() const;
  double at(size_t index) const;  // exact for everything but 64-bit integers beyond 2^53
};
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, GgufNumbers, std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  Shape shape;                     // outermost first, as everywhere else
  uint32_t type = 0;               // ggml type id, one of the supported ones
  uint64_t offset = 0, bytes = 0;  // absolute in the file
};

struct GgufHeader {
  uint32_t version = 0;
  std::map<std::string, GgufValue, std::less<>> values;
  std::vector<GgufTensor> tensors;
};

/// ErrorKind::data "FILE: byte N", "FILE: key K" or "FILE: tensor NAME".
GgufHeader read_gguf_header(const InputFile&);

}  // namespace longlora
