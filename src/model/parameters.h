#pragma once
// All parameters of a model, allocated so that projections which share an input are rows of one matrix.
#include <ATen/core/Tensor.h>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/model/llama.h"
#include "longlora/model/parameter.h"
#include "longlora/plan/weight_parts.h"
#include "model/layer.h"
#include "model/layer_store.h"

namespace longlora {

/// Parameters in tensor-table order (LoRA A, B right after their projection) and the layers' views of them. Tensors of a Parameter are
/// never replaced after construction: weight, master and grad of neighbours share storage.
struct ParameterSet {
  ParameterSet(const ModelConfig&, const ModelOptions&);

  std::deque<Parameter> list;  // stable addresses
  Parameter* embedding = nullptr;
  Parameter* final_norm = nullptr;
  Parameter* head = nullptr;  // the embedding when tied
  std::vector<Layer> layers;
  std::vector<LayerWeights> weights;  // for the resident store
  std::optional<WeightParts> layout;  // of layers that ranks share, and this rank's parts
  std::vector<at::Tensor> parts;

  std::unique_ptr<LayerStore> make_store(const ModelConfig&, const ModelOptions&) const;
};

}  // namespace longlora
