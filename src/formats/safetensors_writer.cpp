#include <fmt/format.h>

#include <algorithm>

#include "formats/safetensors_header.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {

struct SafetensorsWriter::State {
  OutputFile file;
  std::vector<Declared> order;
  std::vector<uint64_t> bytes;  // of each tensor, in order
  size_t current = 0;           // tensor being written
  uint64_t written = 0;         // of that tensor
  uint64_t total_bytes = 0;
  Sha256 file_digest, tensor_digest;
  Result result;

  /// Moves on while the current tensor is complete: empty tensors need no write().
  void close_complete_tensors() {
    while (current < order.size() && written == bytes[current]) {
      result.tensors[order[current].name] = tensor_digest.finish();
      tensor_digest = Sha256();
      written = 0;
      ++current;
    }
  }
};

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file, std::vector<Declared> tensors,
                                     std::map<std::string, std::string> metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const Declared& a, const Declared& b) {
    return size_of(a.dtype) != size_of(b.dtype) ? size_of(a.dtype) > size_of(b.dtype) : a.name < b.name;
  });
  metadata["format"] = "pt";  // transformers refuses files without it
  const std::string header = make_safetensors_header(tensors, metadata);
  std::vector<uint64_t> bytes;
  uint64_t total = header.size();
  for (const Declared& t : tensors) {
    bytes.push_back(checked_mul(num_elements(t.shape), size_of(t.dtype), t.name));
    total = checked_add(total, bytes.back(), t.name);
  }
  std::vector<std::string> names;
  for (const Declared& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  LONGLORA_INVARIANT(std::adjacent_find(names.begin(), names.end()) == names.end());

  state_ = std::make_unique<State>(State{.file = OutputFile::create(file), .order = std::move(tensors), .bytes = std::move(bytes)});
  state_->total_bytes = total;
  state_->file.allocate(total);
  state_->file.write_all(header);
  state_->file_digest.update(header);
  state_->close_complete_tensors();
}

SafetensorsWriter::~SafetensorsWriter() = default;

std::span<const SafetensorsWriter::Declared> SafetensorsWriter::order() const { return state_->order; }

void SafetensorsWriter::write(size_t index, std::span<const std::byte> data) {
  State& s = *state_;
  if (data.empty()) return;
  LONGLORA_INVARIANT(index == s.current && data.size() <= s.bytes[index] - s.written);
  s.file.write_all(data);
  s.file_digest.update(data);
  s.tensor_digest.update(data);
  s.written += data.size();
  s.close_complete_tensors();
}

SafetensorsWriter::Result SafetensorsWriter::finish() {
  State& s = *state_;
  LONGLORA_INVARIANT(s.current == s.order.size());
  s.file.sync();
  s.file.close();
  s.result.file = s.file_digest.finish();
  s.result.bytes = s.total_bytes;
  return std::move(s.result);
}

std::vector<uint32_t> plan_shards(std::span<const uint64_t> tensor_bytes, uint64_t max_shard_bytes) {
  std::vector<uint32_t> shard_of;
  uint32_t shard = 0;
  uint64_t filled = 0;
  bool is_empty = true;
  for (const uint64_t bytes : tensor_bytes) {
    if (!is_empty && (filled > max_shard_bytes || bytes > max_shard_bytes - filled)) {
      ++shard;
      filled = 0;
    }
    is_empty = false;
    filled += bytes;
    shard_of.push_back(shard);
  }
  return shard_of;
}

std::string shard_name(uint32_t index, uint32_t count) {
  LONGLORA_INVARIANT(index < count);
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05d}-of-{:05d}.safetensors", index + 1, count);
}

}  // namespace longlora
