#include "plan/passes.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/config/sequence_parts.h"
#include "longlora/core/error.h"
#include "longlora/kernels/s2_attention.h"
#include "plan/shapes.h"

namespace longlora::plan {
namespace {

constexpr int64_t kLossChunkGpu = int64_t{512} << 20;  // bytes of fp32 logits
constexpr int64_t kLossRowsHost = 512;                 // the head's gradient is read and written once a chunk: 4 % of its products

int64_t tile_rows(int64_t rows, int64_t tokens, AttentionKind kind, const RunPlan& run) {
  return most_tile_rows(row_tiles(rows, tokens, kind, run.group));
}

/// The model takes whole multiples of 128 rows where that many fit.
int64_t loss_chunk_rows(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  const bool gpu = target.device == PlanTarget::Device::gpu;
  const int64_t fit = gpu ? std::max<int64_t>(128, kLossChunkGpu / (4 * model.vocab_size) / 128 * 128) : kLossRowsHost;
  const int64_t rows = std::min(fit, tile_rows(1, run.sequence_length, config.attention.kind, run));
  return rows >= 128 ? rows / 128 * 128 : rows;
}

/// `rows` x `tokens` on this rank, of rows of `row_tokens`.
PassShape pass_of(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target, AttentionKind kind,
                  int64_t rows, int64_t tokens, int64_t row_tokens, bool training) {
  PassShape pass{.kind = kind, .layer = layer_shape(model, config.tuning)};
  LayerShape& s = pass.layer;
  s.rows = rows;
  s.tokens = tokens;
  s.row_tile = tile_rows(rows, tokens, kind, run);
  s.element_bytes = target.element_bytes;
  s.dropout = s.dropout && training;
  s.merged = merges_adapters(target.element_bytes, s.dropout, rows * row_tokens);
  s.on_device = target.device == PlanTarget::Device::gpu;
  s.carry_heads = most_carry_heads(model, config.attention.pattern.value_or(AttentionPattern::cross_heads));
  pass.loss = {.chunk_rows = loss_chunk_rows(model, config, run, target), .vocabulary = model.vocab_size};
  return pass;
}

PassShape step_pass(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target, AttentionKind kind) {
  const int64_t sequence_ranks = config.dist.sequence_parallel, tokens = longest_part(run, sequence_ranks);
  PassShape pass = pass_of(model, config, run, target, kind, run.micro_batch, tokens, run.sequence_length, true);
  pass.loss.head_trained = trains_head(model, config.tuning);
  pass.layer.block = stream_block(kind, run.group, tokens, config.data.document_mask, sequence_ranks > 1, kMaxRowTile);
  if (sequence_ranks == 1 || run.group <= 0) return pass;
  pass.layer.part_half = run.group / 2;
  if (half_groups_of(run.sequence_length, run.group) < sequence_ranks) return pass;  // refused by make_run_plan
  for (int64_t i = 0; i < sequence_ranks; ++i) {                                     // a shorter part may have larger tiles
    const int64_t part = sequence_part(run.sequence_length, run.group, sequence_ranks, i).tokens();
    pass.layer.row_tile = std::max(pass.layer.row_tile, tile_rows(run.micro_batch, part, kind, run));
  }
  return pass;
}

}  // namespace

PassShape training_pass(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  return step_pass(model, config, run, target, config.attention.kind);
}

PassShape full_attention_pass(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target) {
  return step_pass(model, config, run, target, AttentionKind::full);
}

std::vector<PassShape> evaluation_passes(const ModelConfig& model, const TrainConfig& config, const RunPlan& run,
                                         const PlanTarget& target) {
  std::vector<PassShape> passes;
  const bool as_trained = config.evaluate.attention == EvaluateAttention::as_trained;
  for (const int64_t context : evaluation_contexts(config, run)) {
    if (as_trained) passes.push_back(pass_of(model, config, run, target, config.attention.kind, 1, context, context, false));
    if (!as_trained || config.attention.full_steps > 0)
      passes.push_back(pass_of(model, config, run, target, AttentionKind::full, 1, context, context, false));
  }
  return passes;
}

void check_streaming(const TrainConfig& config, const RunPlan& run) {
  if (config.memory.halo_streaming != HaloStreaming::on) return;
  const int64_t block = run.group / 2;
  std::string reason;
  if (config.attention.kind == AttentionKind::full)
    reason = "attention.kind is full, every token sees all before it";
  else if (config.attention.kind == AttentionKind::s2_wrap)
    reason = "attention.kind is s2_wrap, the first half-group sees the last one";
  else if (config.data.document_mask)
    reason = "data.document_mask is true, groups begin anew inside a row";
  else if (config.dist.sequence_parallel > 1)
    reason = fmt::format("dist.sequence_parallel is {}, ranks hold parts of a row already", config.dist.sequence_parallel);
  else if (block < kMaxRowTile)
    reason = fmt::format("half a group is {} tokens, less than a row tile of {}", block, kMaxRowTile);
  else if (run.sequence_length <= block)
    reason = fmt::format("a row of {} tokens is one half-group", run.sequence_length);
  LONGLORA_CHECK(reason.empty(), config, "layers cannot be streamed: " + reason, "memory.halo_streaming: on", "use auto or off");
}

bool block_is_whole_tiles(int64_t block, int64_t head_dim, const PlanTarget& target) {
  return block % (target.device == PlanTarget::Device::gpu ? kernels::kAttentionTile : kernels::host_attention_block(head_dim)) == 0;
}

}  // namespace longlora::plan
