#include "checkpoint/weight_writer.h"

#include <fmt/format.h>

#include "checkpoint/folder_files.h"
#include "checkpoint/row_stream.h"
#include "checkpoint/tensor_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

uint64_t elements_of(const PlannedTensor& tensor) { return num_elements(tensor.spec.shape); }
uint64_t bytes_of_planned(const PlannedTensor& tensor) { return checked_mul(elements_of(tensor), size_of(tensor.dtype), tensor.spec.name); }

void write_shard(const fs::path& file, const std::vector<const PlannedTensor*>& tensors, const TensorFeed& feed,
                 std::map<std::string, Digest>& digests) {
  std::vector<SafetensorsWriter::Declared> declared;
  std::map<std::string, const PlannedTensor*> by_name;
  for (const PlannedTensor* tensor : tensors) {
    declared.push_back({tensor->spec.name, tensor->dtype, tensor->spec.shape});
    by_name[tensor->spec.name] = tensor;
  }
  SafetensorsWriter writer(file, std::move(declared));
  for (size_t i = 0; i < writer.order().size(); ++i) {
    feed(*by_name.at(writer.order()[i].name), [&](const at::Tensor& block) { writer.write(i, bytes_of(block)); });
  }
  digests.merge(writer.finish().tensors);
}

}  // namespace

uint64_t total_bytes(const std::vector<PlannedTensor>& tensors) {
  uint64_t total = 0;
  for (const PlannedTensor& tensor : tensors) total = checked_add(total, bytes_of_planned(tensor), "size of the model");
  return total;
}

std::string torch_dtype_name(const std::vector<PlannedTensor>& tensors) {
  std::map<DType, uint64_t> bytes;
  for (const PlannedTensor& tensor : tensors) bytes[tensor.dtype] += bytes_of_planned(tensor);
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  switch (most == bytes.end() ? DType::f32 : most->first) {
    case DType::f64:
      return "float64";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    default:
      return "float32";
  }
}

void require_space(const fs::path& target, uint64_t bytes) {
  const uint64_t needed = bytes + bytes / 10, available = free_bytes(target);
  LONGLORA_CHECK(available >= needed, io, fmt::format("{} are needed, {} are free", human_bytes(needed), human_bytes(available)),
                 target.string(), "free space or choose another --to");
}

at::Tensor round_block(const at::Tensor& block, const PlannedTensor& tensor, int64_t first_row) {
  const at::Tensor rounded = block.to(scalar_type(tensor.dtype)).contiguous();
  const auto bad = first_non_finite(rounded);
  if (!bad) return rounded;
  const std::string place = fmt::format("tensor {}, element {}", tensor.spec.name, first_row * block.size(1) + *bad);
  if (first_non_finite(block)) fail(ErrorKind::data, "the weight is NaN or infinite", place, "train or repair the model first");
  fail(ErrorKind::data, fmt::format("a finite value overflows {}", name_of(tensor.dtype)), place, "use --dtype bf16");
}

std::map<std::string, Digest> write_weights(const fs::path& folder, const std::vector<PlannedTensor>& tensors, uint64_t max_shard_bytes,
                                            const TensorFeed& feed) {
  std::vector<uint64_t> sizes;
  uint64_t parameters = 0;
  for (const PlannedTensor& tensor : tensors) {
    sizes.push_back(bytes_of_planned(tensor));
    parameters += elements_of(tensor);
  }
  const std::vector<uint32_t> shard_of = plan_shards(sizes, max_shard_bytes);
  const uint32_t num_shards = shard_of.empty() ? 1 : shard_of.back() + 1;
  std::map<std::string, Digest> digests;
  std::map<std::string, std::string> weight_map;
  for (uint32_t shard = 0; shard < num_shards; ++shard) {
    std::vector<const PlannedTensor*> inside;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (shard_of[i] == shard) inside.push_back(&tensors[i]);
    }
    for (const PlannedTensor* tensor : inside) weight_map[tensor->spec.name] = shard_name(shard, num_shards);
    write_shard(folder / shard_name(shard, num_shards), inside, feed, digests);
  }
  if (num_shards > 1) write_synced(folder, "model.safetensors.index.json", make_weight_index(weight_map, total_bytes(tensors), parameters));
  return digests;
}

void compare_weights(const WeightSource& source, const std::map<std::string, Digest>& digests) {
  LONGLORA_INVARIANT(source.tensors().size() == digests.size());
  for (const TensorInfo& info : source.tensors()) {
    Sha256 hash;
    for_each_block(source, info, [&](int64_t, const at::Tensor& block) { hash.update(bytes_of(block)); });
    const auto written = digests.find(info.name);
    LONGLORA_CHECK(written != digests.end() && written->second == hash.finish(), io, "what was read back differs from what was written",
                   "tensor " + info.name, "check the disk, then export again");
  }
}

}  // namespace longlora
