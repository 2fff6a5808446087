#include "longlora/plan/weight_parts.h"

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/plan/layer_memory.h"

namespace longlora {
namespace {

constexpr int64_t kWordBytes = 4;  // state lanes are sums over 32-bit words

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

bool follows_in_its_product(std::string_view name) {
  return name.find(".k_proj.") != name.npos || name.find(".v_proj.") != name.npos || name.find(".up_proj.") != name.npos;
}

}  // namespace

WeightParts::WeightParts(const ModelConfig& model, int64_t element_bytes, int64_t ranks) : element_bytes_(element_bytes), ranks_(ranks) {
  LONGLORA_INVARIANT(ranks >= 1 && (element_bytes == 2 || element_bytes == 4));
  ModelConfig one_layer = model;
  one_layer.num_layers = 1;
  int64_t end = 0;  // in bytes
  for (const TensorSpec& spec : tensor_table(one_layer)) {
    if (spec.role != Role::projection) continue;
    const int64_t elements = spec.shape[0] * spec.shape[1];
    LONGLORA_CHECK(ranks == 1 || elements * element_bytes % kWordBytes == 0, config,
                   spec.name + " has an odd number of elements, which ranks cannot share in bf16", "dist.shard_weights",
                   "set dist.shard_weights: none, or model.dtype: fp32");
    if (!follows_in_its_product(spec.name)) end = round_up(end, kArenaAlignment);
    tensors_.push_back({end / element_bytes, elements});
    end += elements * element_bytes;
  }
  part_bytes_ = round_up(end, ranks * kArenaAlignment) / ranks;
}

WeightParts::Own WeightParts::own(int64_t rank, size_t tensor) const {
  const Tensor& t = tensors_[tensor];
  const int64_t part = part_bytes_ / element_bytes_, begin = rank * part;
  const int64_t from = std::clamp(t.begin, begin, begin + part), to = std::clamp(t.begin + t.elements, begin, begin + part);
  return from < to ? Own{from - t.begin, to - from, from - begin} : Own{};
}

}  // namespace longlora
