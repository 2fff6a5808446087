#pragma once
// Bytes of activations: what a policy keeps of a layer from forward to backward, the buffers of every pass, and what is alive at each
// moment of a step. The planner adds this table up and the model carves its buffers out of one arena by the same table, so that a plan is
// what happens. Legend of letters: docs/memory.md section 1.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/config/train_config.h"

namespace longlora {

/// What one layer keeps between forward and backward: decides what is kept, never what is computed.
enum class KeepPolicy : uint8_t { checkpoint, save_attention, save_all };

struct LayerPolicy {
  KeepPolicy keep = KeepPolicy::checkpoint;
  bool streamed = false;   // block by block of half a group: workspace of a block in place of the row's (docs/memory.md section 6)
  bool offloaded = false;  // the layer's input waits in host memory

  LayerPolicy(KeepPolicy k = KeepPolicy::checkpoint, bool s = false, bool o = false) : keep(k), streamed(s), offloaded(o) {}
  bool operator==(const LayerPolicy&) const = default;
};
/// The policy's name in the configuration: save_all, save_attention, checkpoint, checkpoint_offload; ", streamed" where it is.
std::string name_of(const LayerPolicy&);

/// One linear map of a layer, or several side by side.
struct LinearShape {
  int64_t in = 0, out = 0;
  int64_t parts = 0, rank = 0, widest_part = 0;  // adapters, their rank, and the most output columns of one
  bool trained = false;                          // the matrix itself
};

/// Everything that the bytes of a layer depend on.
struct LayerShape {
  int64_t rows = 0, tokens = 0;  // B, T: of one micro-batch on one rank
  int64_t row_tile = 0;          // most rows of a tile
  int64_t block = 0;             // b = g / 2, tokens of a streamed block; 0: these rows cannot be streamed
  int64_t hidden = 0, ffn = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t element_bytes = 0;
  int64_t carry_heads = 0;  // most KV heads that the next block's queries read
  int64_t part_half = 0;    // half a group where ranks share the rows (dist.sequence_parallel), else 0
  LinearShape qkv, o, gate_up, down;
  bool merged = false;     // adapters are merged into a copy of their matrix for a pass
  bool dropout = false;    // of adapters
  bool on_device = false;  // a GPU: gradients of products in fp32, offloaded inputs come back through staging buffers

  int64_t num_tokens() const { return rows * tokens; }
  int64_t stream_tokens(const LayerPolicy& p) const { return p.streamed ? block : num_tokens(); }  // that a pass holds at a time
};

/// Adapters and trained matrices of a layer under `tuning`. Rows, tiles, block and flags are the caller's.
LayerShape layer_shape(const ModelConfig&, const TrainConfig::Tuning&);
/// Can rows of this attention be computed block by block? s2 without documents, rows that ranks do not share, b >= the largest row tile
/// (so that the tile grid restarts at every block), and more than one block. 0, or b.
int64_t stream_block(AttentionKind, int64_t group, int64_t tokens, bool documents, bool shared_rows, int64_t max_row_tile);
/// KV heads in the larger of the two sets that a neighbouring block reads, in any layer.
int64_t most_carry_heads(const ModelConfig&, AttentionPattern);
/// Adapters are merged into a copy of their matrix for a pass over that many rows: below, merging costs more than it saves; in bf16 it
/// would round small updates away, with dropout it is not linear.
inline bool merges_adapters(int64_t element_bytes, bool dropout, int64_t rows) { return element_bytes == 4 && !dropout && rows >= 128; }

/// Bytes are those of tensors; each starts at a multiple of `kArenaAlignment`.
inline constexpr int64_t kArenaAlignment = 256;
inline int64_t aligned(int64_t bytes) { return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

/// Kept from forward to backward, by tensor; 0: not kept.
struct KeptBytes {
  int64_t x = 0, qkv = 0, o = 0, lse = 0, h = 0, gate_up = 0;
  int64_t total() const;
};
KeptBytes kept_bytes(const LayerShape&, const LayerPolicy&);

/// Buffers that live inside one pass over one layer; 0: not used.
struct WorkspaceBytes {
  int64_t norm = 0, d_norm = 0, mlp = 0, mlp_product = 0, h = 0, gate_up = 0;  // one row tile
  int64_t qkv = 0, o = 0, lse = 0, d_o = 0, d_kv = 0, delta = 0;               // all rows, or one block (qkv: two)
  int64_t carry = 0;                                                           // dK and dV of the block before, fp32
  int64_t merged_qkv = 0, merged_o = 0, merged_gate_up = 0, merged_down = 0;
  int64_t low_rank = 0, d_low_rank = 0, dropped = 0, product = 0;  // of linear maps
  int64_t halo = 0, halo_sums = 0, halo_out = 0, halo_in = 0;      // between ranks that share rows
  int64_t total() const;
};
enum class LayerPass : uint8_t { forward, backward };
WorkspaceBytes workspace_bytes(const LayerShape&, const LayerPolicy&, LayerPass);

/// Final norm, head and loss: one chunk of rows.
struct LossShape {
  int64_t chunk_rows = 0, vocabulary = 0;
  bool head_trained = false;
};
struct LossBytes {
  int64_t hidden = 0, norm = 0, logits = 0, product = 0, nll = 0;
  int64_t total() const;
};
LossBytes loss_bytes(const LayerShape&, const LossShape&);

/// Offloaded inputs on their way back: slots of one block each (a whole layer where it is not streamed). 0 slots on the CPU, which reads
/// them where they are.
struct StagingShape {
  int64_t slots = 0, slot_bytes = 0;
  int64_t total() const { return slots * aligned(slot_bytes); }
};
StagingShape staging_shape(const LayerShape&, std::span<const LayerPolicy>);

/// The worst moment of a pass. Order of life: the hidden state (later its gradient) first, then per layer what is kept, given back in
/// reverse as the backward pass goes down; workspace from the other end.
struct ActivationPeak {
  enum class Phase : uint8_t { forward, loss, backward } phase = Phase::forward;
  int64_t layer = 0;
  int64_t kept = 0, hidden = 0, workspace = 0, staging = 0;
  int64_t total() const { return kept + hidden + workspace + staging; }
};
ActivationPeak training_peak(const LayerShape&, std::span<const LayerPolicy>, const LossShape&);
/// A pass that keeps nothing (evaluation).
ActivationPeak evaluation_peak(const LayerShape&, int64_t layers, const LossShape&);
/// Inputs of offloaded layers, in host memory.
int64_t offloaded_bytes(const LayerShape&, std::span<const LayerPolicy>);

}  // namespace longlora
