#pragma once
// Weights of a Hugging Face folder, streamed block by block into shards and compared after re-reading.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/formats/weights.h"

namespace longlora {

struct PlannedTensor {
  TensorSpec spec;
  DType dtype;
};

/// Hands out the blocks of one tensor in order, already in the planned dtype.
using TensorFeed = std::function<void(const PlannedTensor&, const std::function<void(const at::Tensor& block)>& use)>;

uint64_t total_bytes(const std::vector<PlannedTensor>&);
/// "float32", "bfloat16", ...: the dtype of most bytes.
std::string torch_dtype_name(const std::vector<PlannedTensor>&);

/// Space for 1.1 x `bytes` where `target` will stand, else ErrorKind::io naming both numbers.
void require_space(const std::filesystem::path& target, uint64_t bytes);

/// Block of rows rounded once to `dtype`; a NaN or infinity in the result is ErrorKind::data naming tensor and element.
at::Tensor round_block(const at::Tensor& block, const PlannedTensor&, int64_t first_row);

/// Writes and syncs all shards and the index (table order decides the shard, docs/formats.md); digests by tensor name.
std::map<std::string, Digest> write_weights(const std::filesystem::path& folder, const std::vector<PlannedTensor>&,
                                            uint64_t max_shard_bytes, const TensorFeed&);

/// Re-reads every tensor and compares its SHA-256; a difference is ErrorKind::io naming the tensor.
void compare_weights(const WeightSource&, const std::map<std::string, Digest>&);

}  // namespace longlora
