#pragma once
// Weights of a model as a merged export writes them: trained masters, and base + s B A for projections with LoRA.
#include <map>
#include <string>
#include <vector>

#include "checkpoint/weight_writer.h"
#include "longlora/checkpoint/model_io.h"

namespace longlora {

class MergedWeights {
 public:
  /// Base values come from the base's files (unrounded); without files (model.init: random) from the model itself, or, where ranks share
  /// it, from the random start once more.
  MergedWeights(LlamaModel&, const BaseModel&);

  /// The tensor table with the dtype of each tensor; `dtype` nullopt: as stored in the base.
  std::vector<PlannedTensor> plan(std::optional<DType> dtype) const;
  /// Blocks of rows, computed in fp64 and rounded once: an fp32 sum would miss the promised last bit where W and s B A cancel.
  void feed(const PlannedTensor&, const std::function<void(const at::Tensor&)>& use) const;

  /// Recomputes 64 rows (chosen by Philox from the name; all when fewer) of every merged tensor with plain fp64 loops and compares
  /// them with the written file: more than 1 ulp of its dtype is ErrorKind::internal naming tensor and element.
  void check_written(const WeightSource& written) const;

 private:
  struct Lora {
    at::Tensor a_RC, b_OR;
  };
  at::Tensor base_rows(const TensorSpec&, int64_t first, int64_t rows) const;  // in the stored dtype
  void check_row(const WeightSource& written, const TensorInfo&, const Lora&, int64_t row) const;

  const LlamaModel& model_;
  const BaseModel& base_;
  double scale_ = 0;
  std::map<std::string, Parameter*> parameters_;
  std::map<std::string, Lora> lora_;  // by the projection's name
};

/// Distance between neighbouring values of `dtype` at `value` (of the smallest normal below it).
double ulp_at(double value, DType dtype);

}  // namespace longlora
