// One optimizer step, top to bottom: rows, exact target count, forward and backward per shard, gradient tree, finite check, AdamW.
#include "longlora/checkpoint/train_state.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/model/sequence.h"
#include "longlora/ops/accelerator.h"
#include "longlora/train/device.h"
#include "longlora/train/environment.h"
#include "longlora/train/trainer.h"
#include "train/together.h"

namespace longlora {
namespace {

constexpr int64_t kStepsBetweenChecks = 50;  // of replicas

}  // namespace

AttentionSettings attention_at(const TrainConfig& config, const RunPlan& plan, int64_t step) {
  const bool full = config.attention.kind == AttentionKind::full || step >= plan.total_steps - config.attention.full_steps;
  if (full) return {.kind = AttentionKind::full};
  return {.kind = config.attention.kind, .pattern = config.attention.pattern.value_or(AttentionPattern::cross_heads), .group = plan.group};
}

ModelInput Trainer::model_input(const TokenBatch& batch) const {
  const auto on_host = at::TensorOptions().dtype(at::kInt);
  ModelInput input;
  input.ids_BT = at::from_blob(const_cast<int32_t*>(batch.ids.data()), {batch.rows, batch.tokens}, on_host);
  input.labels_BT = at::from_blob(const_cast<int32_t*>(batch.labels.data()), {batch.rows, batch.tokens}, on_host);
  input.first_position = batch.first_position;
  input.row_tokens = batch.row_tokens;
  if (config_.data.document_mask) input.document_starts = batch.document_starts;
  input.step = static_cast<uint32_t>(progress_.step);
  input.global_rows.assign(batch.global_rows.begin(), batch.global_rows.end());
  return input;
}

/// Rows of this rank, and what they and the other ranks' hold together: the number of targets is exact before any forward.
std::vector<TokenBatch> Trainer::rows_of_step(StepReport& report) {
  const double waited = loader_.wait_seconds();
  std::vector<TokenBatch> shards;
  std::exception_ptr failure;
  try {
    shards = loader_.step(report.first_row);  // host only
  } catch (...) {
    failure = std::current_exception();
  }
  if (reducer_.agree_on_failure(failure, report.step)) out_of_memory(failure);
  int64_t counts[2] = {0, 0};
  for (const TokenBatch& shard : shards) counts[0] += shard.targets, counts[1] += shard.padding;
  reducer_.ranks().sum(counts);
  report.targets = counts[0];
  report.padding = counts[1];
  report.data_wait_seconds = loader_.wait_seconds() - waited;
  LONGLORA_CHECK(report.targets > 0, data, "a global batch without any target token",
                 "rows " + std::to_string(report.first_row) + " to " + std::to_string(report.first_row + report.rows - 1),
                 "check data.train: these rows hold padding or untrained text only");
  if (sequence_ != nullptr) {
    const SequencePart part = sequence_part(plan_.sequence_length, plan_.group, sequence_->size(), sequence_->rank());
    for (TokenBatch& shard : shards) shard = cut_sequence(shard, part);
  }
  return shards;
}

/// What the plan says about steps of this attention.
void Trainer::open_memory(const AttentionSettings& attention) {
  model_.set_attention(attention);
  if (memory_ == nullptr) return;
  const bool full_step = attention.kind == AttentionKind::full && !memory_->full_layer_policy.empty();
  model_.set_policies(full_step ? memory_->full_layer_policy : memory_->layer_policy);
  model_.reserve(memory_->arena_bytes, memory_->offload_host_bytes);
}

std::vector<LossSum> Trainer::accumulate(const std::vector<TokenBatch>& shards, int64_t targets) {
  const float scale = static_cast<float>(1.0 / static_cast<double>(targets));  // the only division
  open_memory(attention_at(config_, plan_, progress_.step));
  tree_.begin(reducer_.first_shard());
  std::vector<LossSum> losses;
  for (const TokenBatch& shard : shards) {
    const ModelInput input = model_input(shard);
    const CountedBytes rows(Component::tables, input.ids_BT.nbytes() + input.labels_BT.nbytes());
    tree_.open();                                                                // zeroed gradients
    at::Tensor hidden_BTC = model_.forward(input);                               // keeps what the policies say
    losses.push_back(model_.loss_backward(hidden_BTC, input.labels_BT, scale));  // hidden becomes its own gradient
    model_.backward(std::move(hidden_BTC), input);
    if (sequence_ != nullptr) add_over_sequence_ranks(trainable_, losses.back(), *sequence_);
    tree_.close();  // adds finished siblings, fixed order
  }
  return losses;
}

StepReport Trainer::step() {
  const double started = monotonic_seconds();
  mark_memory();
  if (!model_.options().device.is_cpu()) accelerator::reset_peak_bytes();
  StepReport report{.step = progress_.step + 1, .first_row = progress_.cursor.next_row, .rows = static_cast<uint64_t>(plan_.global_batch)};
  reducer_.ranks().set_place("step", report.step);
  const std::vector<TokenBatch> shards = rows_of_step(report);
  report.tokens = plan_.tokens_per_step;
  report.attention = attention_at(config_, plan_, progress_.step).kind;
  const double rate_factor = learning_rate_at(config_.schedule, 1.0, progress_.step, plan_.total_steps);
  report.learning_rate = rate_factor * config_.optimizer.learning_rate;

  const std::vector<LossSum> losses = accumulate_within_memory(shards, report.targets);
  UpdateGate gate = reducer_.reduce(tree_, losses, config_.optimizer.clip_norm);
  optimizer_.step(progress_.applied_steps + 1, rate_factor, gate);  // moves nothing unless loss and norm are finite
  read(gate);                                                       // the step's one wait for a device
  if (gate.finite) reducer_.refresh_weights();
  report.loss = gate.nll_sum / static_cast<double>(report.targets);
  report.grad_norm = gate.norm;
  move_on(report, gate);
  if (report.step % kStepsBetweenChecks == 0) reducer_.check_replicas();
  const MemoryNow memory = memory_now(model_.options().device);
  report.memory_bytes = memory.bytes;
  report.memory_peak_bytes = memory.peak_bytes;
  report.resident_peak_bytes = peak_resident_bytes();
  report.tensors = memory_count();
  report.seconds = monotonic_seconds() - started;
  return report;
}

/// What a finished step leaves in the run's progress.
void Trainer::move_on(StepReport& report, const UpdateGate& gate) {
  if (gate.finite) {
    ++progress_.step;
    ++progress_.applied_steps;
    progress_.targets_seen += report.targets;
  } else {
    skip_or_stop(report);
    report.outcome = Outcome::skipped;
    progress_.cursor.skipped.emplace_back(report.first_row, report.first_row + report.rows);
  }
  progress_.cursor.next_row += report.rows;
  last_losses_.push_back(report.loss);
  if (last_losses_.size() > 20) last_losses_.pop_front();
  progress_.chain = chain_next(progress_.chain, {.step = static_cast<uint64_t>(report.step),
                                                 .loss = report.loss,
                                                 .grad_norm = report.grad_norm,
                                                 .state = state_digest(model_, &reducer_),
                                                 .outcome = report.outcome,
                                                 .first_row = report.first_row,
                                                 .rows = report.rows,
                                                 .skipped = &progress_.cursor.skipped});
  report.hash = digest_hex(progress_.chain);
}

}  // namespace longlora
