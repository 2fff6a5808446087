#pragma once
// A Llama: embedding, layers, final norm, head; forward and hand-written backward. No autograd, no torch::nn.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/train_config.h"
#include "longlora/model/parameter.h"
#include "longlora/ops/cross_entropy.h"
#include "longlora/plan/layer_memory.h"
#include "longlora/plan/row_tiles.h"

namespace longlora {

namespace dist {
class Communicator;
}

struct ModelOptions {
  ComputeType compute = ComputeType::fp32;  // bf16 or fp32 (resolved, never automatic)
  TrainConfig::Tuning tuning;               // which parameters exist (LoRA) and are trainable
  uint64_t seed = 42;                       // initialisation and dropout
  at::Device device = at::kCPU;             // where parameters and activations live
  int64_t row_tile = kMaxRowTile;           // tests: 16
  int64_t loss_chunk_rows = 512;            // of logits that are alive at once
  /// Ranks that share the frozen projections (dist.shard_weights: frozen): each keeps one part, layers are gathered as they are needed.
  /// A communicator for this model alone, which outlives it. From then on every pass (training, evaluation, generation) is made by all of
  /// them, in the same order; the results have the bits of null. Null, one rank, or nothing frozen: all weights are here.
  dist::Communicator* weight_ranks = nullptr;
};

/// Attention and rotary embedding of a forward pass; may change between steps (attention.full_steps, evaluation).
struct AttentionSettings {
  AttentionKind kind = AttentionKind::full;
  AttentionPattern pattern = AttentionPattern::cross_heads;
  int64_t group = 0;
};

struct ModelInput {
  at::Tensor ids_BT, labels_BT;                       // int32 on the host
  std::vector<std::vector<int64_t>> document_starts;  // empty: rows are one document (no mask, positions run through)
  /// With a sequence group: ids and labels are this rank's part of rows of `row_tokens`, from `first_position` on; 0: whole rows.
  int64_t first_position = 0, row_tokens = 0;
  // place of dropout counters (docs/determinism): step number and global row index of each row
  uint32_t step = 0;
  std::vector<uint32_t> global_rows;
};

class LlamaModel {
 public:
  /// Allocates all parameters (contents undefined). `rope` gives the rotary frequencies.
  LlamaModel(const ModelConfig&, const RopeScaling& rope, int64_t rope_max_position, int64_t rope_sequence_length, const ModelOptions&);
  ~LlamaModel();
  LlamaModel(const LlamaModel&) = delete;

  const ModelConfig& config() const;
  const ModelOptions& options() const;
  /// Every parameter in tensor-table order, LoRA A and B right after their projection. Row order is part of the checkpoint format.
  void visit(const std::function<void(Parameter&)>&);
  std::vector<Parameter*> trainable();
  /// Exact sums over the ranks that share the frozen projections; unchanged where none do. Collective, between passes.
  void sum_over_weight_ranks(std::span<int64_t>);
  /// Elements [first, first + count) of a base tensor as `initialise_base` starts it, flat, fp32, on the host.
  at::Tensor initial_values(const Parameter&, int64_t first, int64_t count) const;

  void set_attention(const AttentionSettings&);
  /// One per layer; until then all are save_all. A streamed layer is computed whole where its rows cannot be streamed (plan/layer_memory.h,
  /// stream_block). Between steps only.
  void set_policies(std::vector<LayerPolicy>);
  /// Memory of activations and, for offloaded layers, of the host, of exactly these bytes (plan/layer_memory.h), from now on: no pass
  /// within them allocates any. A pass that needs more takes it, and the next ones keep it. Fails as an allocation fails.
  void reserve(int64_t activation_bytes, int64_t host_bytes);
  void release();  // both; between steps
  /// Most activation bytes in use at the same time since `reserve`.
  int64_t activation_peak_bytes() const;
  /// Ranks that share rows, by part; null: none. From then on every pass over parts (ModelInput::row_tokens > 0) is made by all of them
  /// together, with s2 attention and no documents; gradients and losses are those of this rank's part, model/sequence.h adds them. The
  /// group must outlive its use. Policies may differ between ranks.
  void set_sequence_group(dist::Communicator*);

  /// Random start (model.init: random): normal(0, initializer_range) by Philox, norms 1. LoRA: A Kaiming-uniform(a = sqrt 5), B zero.
  void initialise_base();
  void initialise_lora();

  // One canonical shard. Gradients are added into Parameter::grad.
  /// Hidden state before the final norm, in the model's own memory, as is what the policies keep: one forward, its loss and its backward
  /// before the next pass of any kind.
  at::Tensor forward(const ModelInput&);
  /// Final norm, head and loss in chunks of rows, never [tokens, vocabulary] at once. Overwrites `hidden` with the gradient of the
  /// hidden state (scaled by `scale`), adds head and final-norm gradients.
  LossSum loss_backward(at::Tensor& hidden_BTC, const at::Tensor& labels_BT, float scale);
  void backward(at::Tensor d_hidden_BTC, const ModelInput&);

  // Without gradients.
  /// Negative log-likelihood at every position [B,T] fp32 on the host (0 where the label is ignored); layers run one after another, nothing
  /// is kept.
  at::Tensor negative_log_likelihood(const ModelInput&);
  /// Logits fp32 [B, n, V] on the host at the given positions (all when empty).
  at::Tensor logits(const ModelInput&, std::span<const int64_t> positions = {});

 private:
  friend class Decoder;
  struct State;
  std::unique_ptr<State> state_;
};

/// Keys and values of one sequence for generation: full causal attention, one token at a time after the prompt.
class Decoder {
 public:
  Decoder(LlamaModel&, int64_t max_tokens);
  ~Decoder();
  at::Tensor append(std::span<const int32_t> ids);  // logits fp32 [V] on the host after the last of `ids`
  int64_t length() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longlora
