#pragma once
// Weights as names, shapes and bytes: no tensors here. One interface over a safetensors file, a sharded folder and a GGUF file.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/core/dtype.h"
#include "longlora/core/hash.h"

namespace longlora {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint32_t file = 0;               // index into files()
  uint64_t offset = 0, bytes = 0;  // bytes of the tensor as delivered by read()
};

/// Read access to a set of tensors. Everything is checked at construction (format rules of docs/formats.md); const and thread-safe after.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::span<const TensorInfo> tensors() const = 0;                                        // sorted by name
  virtual void read(const TensorInfo&, uint64_t begin, std::span<std::byte> out) const = 0;       // a byte range of the tensor
  virtual std::vector<std::filesystem::path> files() const = 0;
  virtual const std::map<std::string, std::string>& metadata() const = 0;                         // __metadata__ (empty for GGUF)
  virtual void check_unchanged() const = 0;                                                       // size and mtime of every file
  const TensorInfo* find(std::string_view name) const;                                            // binary search
};

/// One safetensors file. `name` as shown in messages defaults to the path.
std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& file);
/// model.safetensors, or model.safetensors.index.json with its shards. Pickle, LFS pointers, Meta layout: refused with the line that converts.
std::unique_ptr<WeightSource> open_weight_folder(const std::filesystem::path& folder);

/// Equal dtype, shape and bytes; both are read in pieces of bounded size.
bool same_tensor(const WeightSource&, const TensorInfo&, const WeightSource&, const TensorInfo&);

/// Every tensor of the table present with its shape, none unknown (rotary inv_freq skipped), dtype F64 F32 F16 BF16;
/// first five offenders of each kind in one Error{data}. A tied model may carry an equal lm_head.weight (bytes compared).
void check_against_table(const WeightSource&, const ModelConfig&, std::string_view source);

/// Streams tensors into one safetensors file: declared order is sorted by (element size descending, name); header padded to 8;
/// __metadata__ always has "format": "pt". Same input, same bytes. Written with OutputFile, fallocate first, fsync at finish.
class SafetensorsWriter {
 public:
  struct Declared { std::string name; DType dtype; Shape shape; };
  SafetensorsWriter(const std::filesystem::path& file, std::vector<Declared>, std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();
  std::span<const Declared> order() const;                                     // the order in which write() must be called
  void write(size_t index, std::span<const std::byte>);                        // may be called in pieces for one tensor
  /// fsync, close; SHA-256 of each tensor's bytes by name, computed over the buffers that were written. `file_digest` over the file.
  struct Result { std::map<std::string, Digest> tensors; Digest file; uint64_t bytes = 0; };
  Result finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Greedy sharding in table order: shard index of each tensor, a new shard when the next would exceed `max_shard_bytes`.
std::vector<uint32_t> plan_shards(std::span<const uint64_t> tensor_bytes, uint64_t max_shard_bytes);
std::string shard_name(uint32_t index, uint32_t count);                        // model.safetensors, or model-00001-of-00003.safetensors
std::string make_weight_index(const std::map<std::string, std::string>& weight_map, uint64_t total_bytes, uint64_t total_parameters);

/// At most 512 bytes are read: refuses zip, pickle, LFS pointers by name (ErrorKind::data) with the line that converts.
void refuse_foreign(const std::filesystem::path& file);

}  // namespace longlora
