#pragma once
// What LlamaModel holds, and the passes that its public functions are made of.
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "longlora/model/llama.h"
#include "longlora/ops/rope.h"
#include "model/layer.h"
#include "model/layer_store.h"
#include "model/parameters.h"
#include "model/row_tiles.h"
#include "model/sequence_context.h"

namespace longlora {

struct SavedActivations::Layers {
  std::vector<LayerBuffers> layers;
  Buffer hidden;  // output of the last layer, then its gradient, in place down to the embedding
};

/// One micro-batch, checked: what every layer's context is made from.
struct Pass {
  int64_t rows = 0, tokens = 0;
  IntList ids, positions;  // staged on the device
  std::vector<int32_t> position_values;
  std::vector<RowTile> tiles;
  std::optional<SequenceContext> sequence;  // the rows are parts
  LayerContext context;                     // of layer 0
};

struct LlamaModel::State {
  State(const ModelConfig&, RopeTable, const ModelOptions&);

  ModelConfig config;
  ModelOptions options;
  ParameterSet parameters;
  std::unique_ptr<LayerStore> store;
  RopeTable rope;
  AttentionSettings attention;
  dist::Communicator* sequence_group = nullptr;
  std::vector<KeepPolicy> policies;
  LayerWorkspace work;
  Buffer stream;  // hidden state of passes that keep nothing
  Buffer head_hidden, head_norm, head_logits, head_product;
  at::TensorOptions tensors;  // of activations: compute dtype, device

  enum class Dropout { off, on };
  /// Checks shapes and builds the pass. `pass` must not move afterwards: contexts point into it.
  void open(const ModelInput&, Dropout, Pass& pass);
  LayerContext context_of(const Pass&, int64_t layer) const;
  /// Which part of their rows this rank's tokens are; nullopt for whole rows.
  std::optional<SequenceContext> sequence_of(const ModelInput&) const;
  /// Embedding and layers without keeping anything: [N, C] in `stream`.
  at::Tensor run_without_gradients(const Pass&);
  /// Logits of rows `index` of hidden_NC (normalised into head_norm), in head_logits: in the compute dtype on the CPU, fp32 on a device.
  at::Tensor logits_of(const at::Tensor& hidden_NC, const RowList& index);
  int64_t loss_chunk_rows() const;
  at::ScalarType compute_type() const { return c10::typeMetaToScalarType(tensors.dtype()); }
  /// Merged adapters pay from 128 rows on; in bf16 they would round small updates away, with dropout they are not linear.
  Merge merge_for(int64_t rows, double drop_probability) const;
};

}  // namespace longlora
