#include "plan/shapes.h"

#include <algorithm>
#include <bit>

#include "longlora/config/sequence_parts.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora::plan {
namespace {

constexpr int64_t kMaxRowTile = 4096;                  // tokens
constexpr int64_t kLossChunkGpu = int64_t{512} << 20;  // bytes of fp32 logits
constexpr int64_t kLossRowsHost = 512;                 // the head's gradient is read and written once a chunk: 4 % of its products
constexpr int64_t kReduceBlock = 16384;                // floats: ranks own whole blocks of them
constexpr int64_t kGpuRuntime = int64_t{1} << 30;      // assumed until measured

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/// Equal tiles of at most 4096 rows; with segments the grid restarts at every half group.
int64_t row_tile_of(int64_t sequence_length, int64_t group, AttentionKind kind) {
  const int64_t half = group / 2;
  if (kind != AttentionKind::s2 || half < kMaxRowTile) return std::min(sequence_length, kMaxRowTile);
  const int64_t pieces = (half + kMaxRowTile - 1) / kMaxRowTile;
  return round_up((half + pieces - 1) / pieces, 128);
}

int64_t loss_rows_of(int64_t vocab, int64_t row_tile, bool gpu) {
  return std::min(row_tile, gpu ? std::max<int64_t>(128, kLossChunkGpu / (4 * vocab) / 128 * 128) : kLossRowsHost);
}

/// ceil(M / P) half-groups.
int64_t longest_part(const RunPlan& run, int64_t parts) {
  if (parts == 1 || run.group <= 0) return run.sequence_length;
  const int64_t half_groups = half_groups_of(run.sequence_length, run.group);
  return std::min(run.sequence_length, (half_groups + parts - 1) / parts * (run.group / 2));
}

/// Half-groups of K and V between neighbours: two beside each other, the sums of one, a message each way in fp32.
int64_t halo_workspace(const ModelConfig& model, const RunPlan& run, int64_t parts, int64_t element_bytes) {
  if (parts == 1 || run.group <= 0) return 0;
  const int64_t half = std::min(run.group / 2, run.sequence_length);
  return run.micro_batch * half * 2 * model.kv_width() * (2 * element_bytes + 3 * 4);
}

int64_t weight_ranks_of(const TrainConfig& config, const RunPlan& run) {
  const bool is_shared = config.dist.shard_weights == ShardWeights::frozen && config.tuning.mode != TuningMode::full;
  return is_shared ? run.ranks * config.dist.sequence_parallel : 1;
}

double attention_flops(const Shapes& s, const TrainConfig& config, int64_t group) {
  const int64_t T = s.sequence_length;
  const bool full = config.attention.kind == AttentionKind::full || group <= 0;
  const double whole = static_cast<double>(T) * static_cast<double>(T + 1) / 2;
  const double plain = full ? whole : static_cast<double>(allowed_pairs(T, group, Shift::none));
  const double shifted =
      full || config.attention.kind == AttentionKind::s2_wrap ? plain : static_cast<double>(allowed_pairs(T, group, Shift::half_group));
  double pairs = 0;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const auto pattern = config.attention.pattern.value_or(AttentionPattern::cross_heads);
    const double num_plain = static_cast<double>(full ? s.heads : num_plain_heads(pattern, s.heads, layer));
    pairs += num_plain * plain + (static_cast<double>(s.heads) - num_plain) * shifted;
  }
  return 4.0 * static_cast<double>(s.head_dim) * pairs / static_cast<double>(T);
}

}  // namespace

Shapes::Shapes(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target)
    : layers(model.num_layers),
      hidden(model.hidden_size),
      ffn(model.intermediate_size),
      heads(model.num_heads),
      kv_heads(model.num_kv_heads),
      head_dim(model.head_dim),
      q_width(model.q_width()),
      kv_width(model.kv_width()),
      vocab(model.vocab_size),
      tokens(run.micro_batch * longest_part(run, config.dist.sequence_parallel)),
      sequence_length(run.sequence_length),
      positions(config.dist.sequence_parallel > 1 ? run.sequence_length : tokens),
      halo_bytes(halo_workspace(model, run, config.dist.sequence_parallel, target.element_bytes)),
      element_bytes(target.element_bytes),
      shards(run.accumulation),
      row_tile(row_tile_of(run.sequence_length, run.group, config.attention.kind)),
      loss_rows(loss_rows_of(model.vocab_size, row_tile, target.device == PlanTarget::Device::gpu)),
      tied(model.tied),
      full_tuning(config.tuning.mode == TuningMode::full),
      gpu(target.device == PlanTarget::Device::gpu),
      weight_ranks(weight_ranks_of(config, run)),
      state_ranks(config.dist.shard_state == AutoBool::off ? 1 : run.ranks),
      counts(count_parameters(model, config.tuning)),
      parts(model, target.element_bytes, weight_ranks) {
  const bool lora = config.tuning.mode == TuningMode::lora;
  head_trained = full_tuning || (lora && (tied ? config.tuning.train_embeddings : config.tuning.train_head.value_or(false)));
  attention_flops_per_token = attention_flops(*this, config, run.group);
}

int64_t Shapes::layer_matmul_parameters() const { return layers * (2 * hidden * q_width + 2 * hidden * kv_width + 3 * hidden * ffn); }

double Shapes::model_flops_per_token() const {
  const double n = static_cast<double>(layer_matmul_parameters()), vh = static_cast<double>(vocab * hidden);
  const double layer_products = full_tuning ? 6 * n : 4 * n;  // frozen weights have no weight gradient
  return layer_products + (head_trained ? 6 : 4) * vh + 3.5 * attention_flops_per_token + 6 * static_cast<double>(counts.lora);
}

double Shapes::recompute_flops_per_token(Keep keep) const {
  if (keep == Keep::save_all) return 0;
  // the down projection is not rerun: nothing in its own backward needs its output
  const double products = 2.0 * static_cast<double>(layer_matmul_parameters() / layers - hidden * ffn);
  return keep == Keep::save_attention ? products : products + attention_flops_per_token / static_cast<double>(layers);
}

int64_t Shapes::layer_weight_bytes() const {
  if (weight_ranks == 1) return element_bytes * layer_matmul_parameters();
  return layers * parts.part_bytes() + std::min<int64_t>(2, layers) * parts.layer_bytes();
}

int64_t Shapes::weight_bytes() const {
  const int64_t augmentation = gpu ? 64 * element_bytes * layers * (2 * hidden + 2 * kv_width) : 0;  // 64 columns of q, k, v, o
  return layer_weight_bytes() + element_bytes * (vocab * hidden * (tied ? 1 : 2) + (2 * layers + 1) * hidden) + augmentation;
}

int64_t Shapes::state_bytes() const {
  // fp32 gradient and a LoRA copy, whole; the own share of m, v and, where a bf16 copy computes, of the master (with fp32 the weight
  // itself)
  const int64_t share = round_up((counts.trainable + state_ranks - 1) / state_ranks, state_ranks > 1 ? kReduceBlock : 1);
  return 4 * counts.trainable + element_bytes * counts.lora + (element_bytes == 2 ? 12 : 8) * share;
}

int64_t Shapes::tree_bytes() const {
  const int64_t levels = shards > 1 ? std::bit_width(static_cast<uint64_t>(shards)) - 1 : 0;
  return 4 * counts.trainable * levels;
}

int64_t Shapes::runtime_bytes() const { return gpu ? kGpuRuntime : 0; }
int64_t Shapes::tile_bytes() const { return row_tile * element_bytes * (3 * ffn + (hidden + 64) + 3 * hidden); }
int64_t Shapes::loss_chunk_bytes() const { return 4 * loss_rows * vocab; }
int64_t Shapes::per_token_bytes() const { return positions * 4 * head_dim + tokens * 16; }

int64_t Shapes::kept_bytes(Keep keep) const {
  const int64_t e = element_bytes;
  if (keep == Keep::checkpoint) return tokens * e * hidden;
  if (keep == Keep::save_attention) return tokens * (e * hidden + e * q_width + 4 * heads);
  return tokens * (e * hidden + e * (q_width + 2 * kv_width) + e * q_width + 4 * heads + e * hidden + 2 * e * ffn);
}

int64_t Shapes::workspace_bytes(Keep keep) const {
  const int64_t e = element_bytes;
  int64_t bytes = e * hidden + e * q_width + 2 * e * kv_width + 4 * heads;  // dx, dO, dK and dV, delta
  if (keep != Keep::save_all) bytes += e * (q_width + 2 * kv_width);        // q, k, v
  if (keep == Keep::checkpoint) bytes += e * q_width + 4 * heads;           // O, lse
  return tokens * bytes + halo_bytes;
}

int64_t Shapes::fixed_bytes() const {
  return weight_bytes() + state_bytes() + tree_bytes() + runtime_bytes() + std::max(tile_bytes(), loss_chunk_bytes());
}

}  // namespace longlora::plan
