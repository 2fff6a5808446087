#pragma once
// How the frozen projections of one layer are shared by ranks (dist.shard_weights: frozen): one flat buffer, one equal part a rank. The
// planner counts these bytes, the model allocates them.
#include <cstdint>
#include <vector>

#include "longlora/config/model_config.h"

namespace longlora {

/// Every layer of a Llama has the same layout. A tensor begins at a multiple of 256 bytes, but for the later tensors of one product
/// (k and v after q, up after gate), which follow without a gap: their rows are rows of one matrix. In models of usual sizes both are the
/// same place.
class WeightParts {
 public:
  struct Tensor {
    int64_t begin = 0, elements = 0;  // in elements of the compute dtype, from the begin of the buffer
  };
  /// What a rank holds of a tensor: elements [first, first + count) of it, `place` elements after the begin of the rank's part.
  struct Own {
    int64_t first = 0, count = 0, place = 0;
  };

  /// ErrorKind::config where a part could begin inside a 32-bit word of a tensor (bf16 with an odd number of elements).
  WeightParts(const ModelConfig&, int64_t element_bytes, int64_t ranks);

  /// q, k, v, o, gate, up, down: projections in tensor-table order.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  Own own(int64_t rank, size_t tensor) const;
  int64_t ranks() const { return ranks_; }
  int64_t element_bytes() const { return element_bytes_; }
  int64_t part_bytes() const { return part_bytes_; }            // a multiple of 256
  int64_t layer_bytes() const { return part_bytes_ * ranks_; }  // the gathered buffer

 private:
  int64_t element_bytes_, ranks_, part_bytes_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace longlora
