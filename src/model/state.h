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
#include "model/sequence_context.h"

namespace longlora {

/// One micro-batch, checked: what every layer's context is made from.
struct Pass {
  int64_t rows = 0, tokens = 0;
  IntList ids, positions;  // staged on the device
  std::vector<int32_t> position_values;
  std::vector<RowTile> tiles;
  std::optional<SequenceContext> sequence;  // the rows are parts
  LayerContext context;                     // of layer 0
  LayerShape shape;
};

/// Buffers of final norm, head and loss for one chunk of rows, cut out of the top of the arena.
struct HeadWorkspace {
  HeadWorkspace(Arena&, const LossBytes&);
  ArenaScope scope;
  Buffer hidden, norm, logits, product, nll;
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
  std::vector<LayerPolicy> policies;
  Arena arena;  // of activations
  OffloadedInputs offloaded;
  std::vector<KeptActivations> kept;  // between forward and backward
  at::Tensor hidden_NC;               // of a pass that keeps: the last layer's output; until then the inputs of offloaded layers
  std::vector<int64_t> kept_begin;    // by layer: where its part of the arena begins
  bool is_between = false;            // `kept` waits for its backward
  at::TensorOptions tensors;          // of activations: compute dtype, device

  enum class Dropout { off, on };
  /// Checks shapes and builds the pass. `pass` must not move afterwards: contexts point into it.
  void open(const ModelInput&, Dropout, Pass& pass);
  LayerContext context_of(const Pass&, int64_t layer) const;
  LayerShape base_shape(int64_t rows, int64_t tokens) const;
  LayerShape shape_of(const Pass&) const;
  /// As set, streamed only where the rows of this pass can be.
  LayerPolicy policy_of(const Pass&, int64_t layer) const;
  /// Nothing of an earlier pass lives on, also of one that an exception ended.
  void drop_activations();
  void clear_activations();  // the same when a pass begins: the arena grows to what the last one needed
  /// Which part of their rows this rank's tokens are; nullopt for whole rows.
  std::optional<SequenceContext> sequence_of(const ModelInput&) const;
  at::Tensor take_hidden(const Pass&);
  at::Tensor place_of_input(const Pass&, int64_t layer);
  at::Tensor forward_layer(const Pass&, int64_t layer, const at::Tensor& x_NC);
  void backward_layer(const Pass&, int64_t layer, at::Tensor& d_NC, Layer::WantInput);
  /// Embedding and layers without keeping anything: [N, C], valid until the next pass.
  at::Tensor run_without_gradients(const Pass&);
  void run_layer(const Pass&, int64_t layer, const at::Tensor& x_NC);
  /// For logits of at most `rows` rows at a time, and a loss a row.
  HeadWorkspace head_workspace(int64_t rows);
  /// Logits of rows `index` of hidden_NC (normalised into `work.norm`): in the compute dtype on the CPU, fp32 on a device.
  at::Tensor logits_of(const at::Tensor& hidden_NC, const RowList& index, HeadWorkspace& work);
  int64_t loss_chunk_rows() const;
  at::ScalarType compute_type() const { return c10::typeMetaToScalarType(tensors.dtype()); }
  /// Merged adapters pay from 128 rows on; in bf16 they would round small updates away, with dropout they are not linear.
  Merge merge_for(int64_t rows, double drop_probability) const;
};

}  // namespace longlora
