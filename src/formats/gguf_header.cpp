#include "formats/gguf_header.h"

#include <bit>
#include <cstring>
#include <set>

#include "formats/gguf_blocks.h"
#include "formats/gguf_cursor.h"
#include "formats/problems.h"

namespace longlora {

namespace {

constexpr uint64_t kMaxRecords = 65'536;  // tensors, and keys
constexpr uint64_t kMaxKeyBytes = 256, kMaxNameBytes = 128, kMaxTokenBytes = 1024, kMaxStringBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxStrings = uint64_t{1} << 20, kMaxMerges = uint64_t{1} << 21, kMaxNumbers = uint64_t{1} << 24;
constexpr uint64_t kMaxMetadataBytes = uint64_t{64} << 20;
constexpr uint64_t kDefaultAlignment = 32, kMinAlignment = 8, kMaxAlignment = 4096;
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

/// Bytes of one element in the file; at least 8 for a string (its length), 0 for arrays.
uint64_t element_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
    case GgufType::string:
      return 8;
    case GgufType::array:
      return 0;
  }
  return 0;
}

/// Counts what the metadata keeps in memory.
class MetadataBudget {
 public:
  void spend(const GgufCursor& cursor, uint64_t bytes) {
    spent_ += bytes;
    if (spent_ > kMaxMetadataBytes)
      cursor.refuse(fmt::format("expected metadata of at most {} bytes in memory, found more", kMaxMetadataBytes));
  }

 private:
  uint64_t spent_ = 0;
};

GgufType read_type(GgufCursor& cursor, std::string_view key) {
  const uint64_t at = cursor.position();
  const uint32_t type = cursor.value<uint32_t>();
  if (type > static_cast<uint32_t>(GgufType::f64))
    cursor.refuse_at(at, fmt::format("expected a value type of 0 to 12 for key {}, found {}", escape(key), type));
  return static_cast<GgufType>(type);
}

bool read_bool(GgufCursor& cursor) {
  const uint64_t at = cursor.position();
  const uint8_t byte = cursor.value<uint8_t>();
  if (byte > 1) cursor.refuse_at(at, fmt::format("expected a truth value of 0 or 1, found {}", byte));
  return byte == 1;
}

GgufValue read_array(GgufCursor& cursor, std::string_view key, MetadataBudget& budget) {
  const GgufType type = read_type(cursor, key);
  const uint64_t at = cursor.position();
  const uint64_t count = cursor.value<uint64_t>();
  if (type == GgufType::array) cursor.refuse_at(at, fmt::format("expected no array of arrays (key {})", escape(key)));
  const bool is_strings = type == GgufType::string;
  const uint64_t most = !is_strings ? kMaxNumbers : key == kMergesKey ? kMaxMerges : kMaxStrings;
  if (count > most) cursor.refuse_at(at, fmt::format("expected at most {} elements in key {}, found {}", most, escape(key), count));
  const uint64_t bytes = count * element_bytes(type);  // at most 2^24 * 8
  if (bytes > cursor.left()) {
    cursor.refuse_at(at,
                     fmt::format("expected {} elements of key {} inside the file, found {} bytes left", count, escape(key), cursor.left()));
  }
  if (!is_strings) {
    budget.spend(cursor, bytes);
    GgufNumbers numbers{type, std::vector<std::byte>(bytes)};
    cursor.take(numbers.bytes);
    return numbers;
  }
  budget.spend(cursor, count * sizeof(std::string));
  std::vector<std::string> strings;
  strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    strings.push_back(cursor.string(kMaxTokenBytes, fmt::format("a string of key {}", escape(key))));
    if (strings.back().size() > 15) budget.spend(cursor, strings.back().size() + 16);  // short ones need no heap block
  }
  return strings;
}

GgufValue read_value(GgufCursor& cursor, std::string_view key, MetadataBudget& budget) {
  switch (read_type(cursor, key)) {
    case GgufType::u8:
      return uint64_t{cursor.value<uint8_t>()};
    case GgufType::i8:
      return int64_t{cursor.value<int8_t>()};
    case GgufType::u16:
      return uint64_t{cursor.value<uint16_t>()};
    case GgufType::i16:
      return int64_t{cursor.value<int16_t>()};
    case GgufType::u32:
      return uint64_t{cursor.value<uint32_t>()};
    case GgufType::i32:
      return int64_t{cursor.value<int32_t>()};
    case GgufType::f32:
      return double{cursor.value<float>()};
    case GgufType::boolean:
      return read_bool(cursor);
    case GgufType::string: {
      std::string text = cursor.string(kMaxStringBytes, fmt::format("the string of key {}", escape(key)));
      budget.spend(cursor, text.size());
      return text;
    }
    case GgufType::array:
      return read_array(cursor, key, budget);
    case GgufType::u64:
      return cursor.value<uint64_t>();
    case GgufType::i64:
      return cursor.value<int64_t>();
    case GgufType::f64:
      return cursor.value<double>();
  }
  LONGLORA_INVARIANT(!"unknown value type");
}

/// Magic and version; returns the version.
uint32_t read_start(GgufCursor& cursor, const InputFile& file) {
  const auto refuse = [&](std::string what, const char* what_to_do) {
    fail(ErrorKind::data, std::move(what), file.path().string() + ": byte 0", what_to_do);
  };
  std::array<char, 4> magic{};
  if (file.size() >= 24) cursor.take(std::as_writable_bytes(std::span(magic)));
  if (std::string_view(magic.data(), 4) != "GGUF") refuse("expected the magic GGUF, the file has none", "name a .gguf file");
  const uint32_t version = cursor.value<uint32_t>();
  if (version == 2 || version == 3) return version;
  if ((version & 0xffffu) == 0) refuse("the file is big-endian, which is not read", "convert it on a little-endian machine");
  refuse(fmt::format("expected GGUF version 2 or 3, found {}", version), "convert the model again with a current converter");
  return 0;
}

void check_not_split(const InputFile& file, const GgufHeader& header) {
  const std::string name = file.path().filename().string();
  const auto count = header.values.find("split.count");
  const bool has_parts = count != header.values.end() && !(std::get_if<uint64_t>(&count->second) && std::get<uint64_t>(count->second) <= 1);
  const size_t at = name.find("-00001-of-");
  if (has_parts || (at != std::string::npos && !name.substr(at).starts_with("-00001-of-00001"))) {
    fail(ErrorKind::data, "the model is split into several GGUF files, which is not in this version", file.path().string(),
         "merge the parts into one file first (gguf-split --merge)");
  }
}

uint64_t alignment_of(const GgufHeader& header, const GgufCursor& cursor) {
  const auto at = header.values.find("general.alignment");
  if (at == header.values.end()) return kDefaultAlignment;
  const uint64_t* value = std::get_if<uint64_t>(&at->second);
  if (!value || !std::has_single_bit(*value) || *value < kMinAlignment || *value > kMaxAlignment) {
    cursor.refuse(fmt::format("expected general.alignment to be a power of two from {} to {}{}", kMinAlignment, kMaxAlignment,
                              value ? fmt::format(", found {}", *value) : ""));
  }
  return *value;
}

/// One record; `offset` is still relative to the data section.
GgufTensor read_record(GgufCursor& cursor) {
  GgufTensor tensor;
  tensor.name = cursor.string(kMaxNameBytes, "a tensor name");
  const uint64_t at = cursor.position();
  const uint32_t rank = cursor.value<uint32_t>();
  if (rank < 1 || rank > 4)
    cursor.refuse_at(at, fmt::format("expected 1 to 4 dimensions in tensor {}, found {}", escape(tensor.name), rank));
  tensor.shape.resize(rank);
  for (uint32_t i = 0; i < rank; ++i) {
    const uint64_t dimension = cursor.value<uint64_t>();
    if (dimension < 1 || dimension > uint64_t{INT64_MAX}) {
      cursor.refuse_at(at, fmt::format("expected dimensions of at least 1 in tensor {}, found {}", escape(tensor.name), dimension));
    }
    tensor.shape[rank - 1 - i] = static_cast<int64_t>(dimension);  // stored innermost first
  }
  tensor.type = cursor.value<uint32_t>();
  tensor.offset = cursor.value<uint64_t>();
  return tensor;
}

void check_record(GgufTensor& tensor, uint64_t data_start, uint64_t alignment, uint64_t file_bytes, Problems& problems) {
  const auto problem = [&](std::string text) { problems.add(fmt::format("tensor {}", escape(tensor.name)), std::move(text)); };
  const GgufBlock* block = gguf_block(tensor.type);
  if (!block)
    return problem(
        fmt::format("expected a type of {}, found {}, which is not in this version", supported_gguf_types(), gguf_type_name(tensor.type)));
  if (tensor.shape.back() % block->elements != 0) {
    return problem(
        fmt::format("expected rows of a multiple of {} elements for {}, found {}", block->elements, block->name, tensor.shape.back()));
  }
  uint64_t bytes = block->bytes;
  bool overflows = false;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const uint64_t blocks = static_cast<uint64_t>(tensor.shape[i]) / (i + 1 == tensor.shape.size() ? block->elements : 1);
    overflows |= __builtin_mul_overflow(bytes, blocks, &bytes);
  }
  // the dequantised tensor must be addressable too
  uint64_t float_bytes = sizeof(float);
  for (const int64_t d : tensor.shape) overflows |= __builtin_mul_overflow(float_bytes, static_cast<uint64_t>(d), &float_bytes);
  if (overflows) return problem(fmt::format("shape {} overflows 64 bits", to_string(tensor.shape)));
  if (tensor.offset % alignment != 0)
    return problem(fmt::format("expected an offset that is a multiple of {}, found {}", alignment, tensor.offset));
  const uint64_t room = file_bytes - data_start;
  if (tensor.offset > room || bytes > room - tensor.offset) {
    return problem(fmt::format("expected data inside the {} bytes of the data section, found {} bytes at {}", room, bytes, tensor.offset));
  }
  tensor.offset += data_start;
  tensor.bytes = bytes;
}

void check_disjoint(const std::vector<GgufTensor>& tensors, Problems& problems) {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      problems.add(fmt::format("tensor {}", escape(order[i]->name)),
                   fmt::format("expected data of its own, found an overlap with {}", escape(order[i - 1]->name)));
    }
  }
}

void read_tensors(GgufCursor& cursor, uint64_t count, const InputFile& file, GgufHeader& header) {
  std::set<std::string_view> names;
  Problems problems(file.path().string());
  header.tensors.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    header.tensors.push_back(read_record(cursor));
    const GgufTensor& tensor = header.tensors.back();
    if (!names.insert(tensor.name).second)
      problems.add(fmt::format("tensor {}", escape(tensor.name)), "expected every name once, found it twice");
  }
  const uint64_t alignment = alignment_of(header, cursor);
  const uint64_t data_start = (cursor.position() + alignment - 1) / alignment * alignment;
  if (count > 0 && data_start > file.size()) cursor.refuse(fmt::format("expected a data section at {}, the file ends before", data_start));
  for (GgufTensor& tensor : header.tensors) check_record(tensor, data_start, alignment, file.size(), problems);
  if (problems.empty()) check_disjoint(header.tensors, problems);
  problems.raise(ErrorKind::data, "use a file whose tensors are stored as F16, Q8_0, Q4_0 or Q4_1, or download it again");
}

template <class T>
double load(const std::vector<std::byte>& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return static_cast<double>(value);
}

}  // namespace

size_t GgufNumbers::count() const { return bytes.size() / element_bytes(type); }

double GgufNumbers::at(size_t index) const {
  LONGLORA_INVARIANT(index < count());
  switch (type) {
    case GgufType::u8:
    case GgufType::boolean:
      return load<uint8_t>(bytes, index);
    case GgufType::i8:
      return load<int8_t>(bytes, index);
    case GgufType::u16:
      return load<uint16_t>(bytes, index);
    case GgufType::i16:
      return load<int16_t>(bytes, index);
    case GgufType::u32:
      return load<uint32_t>(bytes, index);
    case GgufType::i32:
      return load<int32_t>(bytes, index);
    case GgufType::f32:
      return load<float>(bytes, index);
    case GgufType::u64:
      return load<uint64_t>(bytes, index);
    case GgufType::i64:
      return load<int64_t>(bytes, index);
    case GgufType::f64:
      return load<double>(bytes, index);
    case GgufType::string:
    case GgufType::array:
      break;
  }
  LONGLORA_INVARIANT(!"not a number");
}

GgufHeader read_gguf_header(const InputFile& file) {
  GgufCursor cursor(file);
  GgufHeader header;
  header.version = read_start(cursor, file);
  const uint64_t tensors = cursor.value<uint64_t>(), keys = cursor.value<uint64_t>();
  if (tensors > kMaxRecords) cursor.refuse_at(8, fmt::format("expected at most {} tensors, found {}", kMaxRecords, tensors));
  if (keys > kMaxRecords) cursor.refuse_at(16, fmt::format("expected at most {} keys, found {}", kMaxRecords, keys));
  MetadataBudget budget;
  for (uint64_t i = 0; i < keys; ++i) {
    const uint64_t at = cursor.position();
    std::string key = cursor.string(kMaxKeyBytes, "a key");
    budget.spend(cursor, sizeof(GgufValue) + sizeof(std::string) + key.size());
    GgufValue value = read_value(cursor, key, budget);
    if (!header.values.emplace(key, std::move(value)).second)
      cursor.refuse_at(at, fmt::format("expected every key once, found {} twice", escape(key)));
  }
  check_not_split(file, header);
  read_tensors(cursor, tensors, file, header);
  file.check_unchanged();
  return header;
}

}  // namespace longlora
