#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "formats/json_scanner.h"
#include "formats/problems.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {

namespace {

constexpr size_t kHeaderDepth = 3;
constexpr std::string_view kMetadataKey = "__metadata__";

struct Entry {
  std::string name, dtype;
  Shape shape;
  uint64_t begin = 0, end = 0;
};

bool has_control_characters(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

void read_metadata(JsonScanner& scan, std::map<std::string, std::string>& metadata, size_t limit) {
  scan.open('{');
  while (scan.next('}')) {
    std::string key = scan.key(limit, "a metadata key");
    std::string value = scan.string(limit, "a metadata value");
    if (!metadata.emplace(std::move(key), std::move(value)).second) scan.refuse("no metadata key twice (before this byte)");
  }
}

Shape read_shape(JsonScanner& scan) {
  Shape shape;
  scan.open('[');
  while (scan.next(']')) {
    if (shape.size() == kMaxRank) scan.refuse(fmt::format("at most {} dimensions", kMaxRank));
    shape.push_back(static_cast<int64_t>(scan.unsigned_integer("a dimension")));
  }
  return shape;
}

Entry read_entry(JsonScanner& scan, std::string name) {
  Entry entry{.name = std::move(name)};
  bool has_dtype = false, has_shape = false, has_offsets = false;
  const auto once = [&](bool& seen, std::string_view key) {
    if (seen) scan.refuse(fmt::format("key '{}' once in tensor {}", key, escape(entry.name)));
    seen = true;
  };
  scan.open('{');
  while (scan.next('}')) {
    const std::string key = scan.key(64, "a tensor key");
    if (key == "dtype") {
      once(has_dtype, key);
      entry.dtype = scan.string(16, "a dtype");
    } else if (key == "shape") {
      once(has_shape, key);
      entry.shape = read_shape(scan);
    } else if (key == "data_offsets") {
      once(has_offsets, key);
      scan.open('[');
      uint64_t* const ends[] = {&entry.begin, &entry.end};
      for (uint64_t* end : ends) {
        if (!scan.next(']')) scan.refuse("two data_offsets (before this byte)");
        *end = scan.unsigned_integer("an offset");
      }
      if (scan.next(']')) scan.refuse("two data_offsets");
    } else {
      scan.refuse(
          fmt::format("only dtype, shape and data_offsets in tensor {}, not '{}' (before this byte)", escape(entry.name), escape(key)));
    }
  }
  if (!has_dtype || !has_shape || !has_offsets) {
    scan.refuse(fmt::format("dtype, shape and data_offsets in tensor {}; '{}' is missing (before this byte)", escape(entry.name),
                            !has_dtype   ? "dtype"
                            : !has_shape ? "shape"
                                         : "data_offsets"));
  }
  return entry;
}

/// Bytes that dtype and shape ask for; nothing when the dtype is unknown or the product overflows.
std::optional<uint64_t> wanted_bytes(const Entry& entry, DType dtype) {
  uint64_t bytes = size_of(dtype);
  for (const int64_t dimension : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) return std::nullopt;
  }
  return bytes;
}

TensorInfo check_entry(Entry& entry, uint64_t data_start, uint64_t buffer_bytes, Problems& problems) {
  TensorInfo info{.shape = entry.shape};
  const auto problem = [&](const std::string& text) { problems.add(fmt::format("tensor {}", escape(entry.name)), text); };
  if (entry.begin > entry.end || entry.end > buffer_bytes) {
    problem(fmt::format("expected data_offsets inside the buffer of {} bytes, found [{}, {}]", buffer_bytes, entry.begin, entry.end));
  }
  if (const auto dtype = dtype_of(entry.dtype)) {
    info.dtype = *dtype;
    info.bytes = entry.end - entry.begin;
    const auto wanted = wanted_bytes(entry, *dtype);
    if (!wanted) {
      problem(fmt::format("shape {} overflows 64 bits", to_string(entry.shape)));
    } else if (entry.begin <= entry.end && *wanted != info.bytes) {
      problem(fmt::format("expected {} bytes for {} {}, found data_offsets [{}, {}]", *wanted, entry.dtype, to_string(entry.shape),
                          entry.begin, entry.end));
    }
  } else {
    problem(fmt::format("expected dtype F64 F32 F16 BF16 I64 I32 I16 I8 U8 or BOOL, found '{}'", escape(entry.dtype)));
  }
  info.offset = data_start + std::min(entry.begin, buffer_bytes);
  info.name = std::move(entry.name);
  return info;
}

/// Sorted by begin the tensors must cover the buffer exactly.
void check_tiling(const std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t buffer_bytes, Problems& problems) {
  std::vector<const TensorInfo*> order;
  for (const TensorInfo& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset != b->offset ? a->offset < b->offset : a->bytes < b->bytes; });
  uint64_t cursor = 0;
  for (const TensorInfo* t : order) {
    const uint64_t begin = t->offset - data_start;
    if (begin != cursor) {
      problems.add(fmt::format("tensor {}", escape(t->name)), fmt::format("expected data to begin at {} of the buffer, found {} ({})",
                                                                          cursor, begin, begin > cursor ? "a hole" : "an overlap"));
      return;  // everything behind the first hole or overlap would be reported too
    }
    cursor = begin + t->bytes;
  }
  if (cursor != buffer_bytes) {
    problems.add(fmt::format("byte {}", data_start + cursor),
                 fmt::format("expected the file to end, found {} bytes that belong to no tensor", buffer_bytes - cursor));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_bytes, std::string_view source) {
  SafetensorsHeader header;
  JsonScanner scan(text, source, 8, kHeaderDepth);
  std::vector<Entry> entries;
  bool has_metadata = false;
  scan.open('{');
  while (scan.next('}')) {
    std::string name = scan.key(kMaxTensorNameBytes, "a tensor name");
    if (name == kMetadataKey) {
      if (has_metadata) scan.refuse("__metadata__ once");
      has_metadata = true;
      read_metadata(scan, header.metadata, text.size());
      continue;
    }
    if (has_control_characters(name)) scan.refuse("a tensor name without control characters (before this byte)");
    if (entries.size() == kMaxTensors) scan.refuse(fmt::format("at most {} tensors", kMaxTensors));
    entries.push_back(read_entry(scan, std::move(name)));
  }
  scan.end();

  const uint64_t data_start = 8 + text.size();
  const uint64_t buffer_bytes = file_bytes - data_start;
  Problems problems(source);
  header.tensors.reserve(entries.size());
  for (Entry& entry : entries) header.tensors.push_back(check_entry(entry, data_start, buffer_bytes, problems));
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    const std::string& name = header.tensors[i].name;
    if (name == header.tensors[i - 1].name)
      problems.add(fmt::format("tensor {}", escape(name)), "expected every name once, found it twice");
  }
  if (problems.empty()) check_tiling(header.tensors, data_start, buffer_bytes, problems);
  problems.raise(ErrorKind::data, "the file is damaged; download or write it again");
  return header;
}

std::string make_safetensors_header(std::span<const SafetensorsWriter::Declared> tensors,
                                    const std::map<std::string, std::string>& metadata) {
  std::string json = "{\"__metadata__\":{";
  for (bool first = true; const auto& [key, value] : metadata) {
    json += fmt::format("{}{}:{}", first ? "" : ",", json_quote(key), json_quote(value));
    first = false;
  }
  json += '}';
  uint64_t offset = 0;
  for (const auto& t : tensors) {
    const uint64_t end = checked_add(offset, checked_mul(num_elements(t.shape), size_of(t.dtype), t.name), t.name);
    json += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_quote(t.name), name_of(t.dtype),
                        fmt::join(t.shape, ","), offset, end);
    offset = end;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');  // 8 bytes of length + a multiple of 8: the buffer starts aligned
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(uint64_t{json.size()} >> (8 * i));
  return out + json;
}

}  // namespace longlora
