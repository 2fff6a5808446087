#include "longlora/config/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "config/checks.h"
#include "longlora/core/error.h"

namespace longlora {

int64_t resolve_group(const TrainConfig::Attention& attention, int64_t sequence_length) {
  LONGLORA_INVARIANT(sequence_length >= 1);
  if (attention.group_size) return *attention.group_size;
  if (attention.group_preset == GroupPreset::longlora_sft) return sequence_length % 4096 == 0 ? sequence_length / 4 : 8192;
  const double half = attention.group_ratio.value_or(0.25) * static_cast<double>(sequence_length) / 2;
  return std::max<int64_t>(2, 2 * static_cast<int64_t>(std::ceil(half - 1e-6)));  // the margin absorbs the rounding of the product
}

int64_t num_plain_heads(AttentionPattern pattern, int64_t num_heads, int64_t layer) {
  switch (pattern) {
    case AttentionPattern::cross_heads:
      return num_heads / 2;
    case AttentionPattern::cross_layers:
      return layer % 2 == 0 ? num_heads : 0;
    case AttentionPattern::plain_only:
      return num_heads;
    case AttentionPattern::shifted_only:
      return 0;
  }
  return num_heads / 2;
}

namespace {

void check_model(const TrainConfig& config, const ModelConfig& model, Checks& checks) {
  if (model.num_kv_heads < 1 || model.num_heads % model.num_kv_heads != 0)
    checks.report("model.path", fmt::format("{} query heads are no multiple of {} key/value heads", model.num_heads, model.num_kv_heads),
                  "use another model");
  if (model.head_dim % 2 != 0)
    checks.report("model.path", fmt::format("head size {} is odd, rotary embedding needs pairs", model.head_dim), "use another model");
  if (config.data.eos && *config.data.eos >= model.vocab_size)
    checks.report("data.eos", fmt::format("got {}, the vocabulary ends at {}", *config.data.eos, model.vocab_size - 1),
                  "give an id inside it");
  const bool embeddings = config.tuning.train_embeddings;
  if (config.tuning.mode == TuningMode::lora && model.tied && config.tuning.train_head && *config.tuning.train_head != embeddings)
    checks.report("tuning.train_head",
                  fmt::format("got {}, but this model's head is its embedding and tuning.train_embeddings is {}", *config.tuning.train_head,
                              embeddings),
                  "remove it or make both equal");
}

void check_ranks(const TrainConfig& config, int64_t ranks, Checks& checks) {
  LONGLORA_INVARIANT(ranks >= 1 && config.train.micro_batch >= 1);
  const int64_t shards = config.train.global_batch / config.train.micro_batch;
  if (shards % ranks == 0) return;
  std::string allowed;
  for (int64_t n = 1; n <= shards; ++n)
    if (shards % n == 0) allowed += (allowed.empty() ? "" : ", ") + std::to_string(n);
  checks.report("train.global_batch", fmt::format("{} shards (global_batch / micro_batch) cannot be split over {} ranks", shards, ranks),
                fmt::format("start {} ranks, or use a multiple of {}", allowed, config.train.micro_batch * ranks));
}

}  // namespace

RunPlan make_run_plan(const TrainConfig& config, const ModelConfig& model, int64_t ranks) {
  Issues issues;
  Checks checks(config, issues, [](std::string_view) { return FilePlace{}; });
  if (config.data.sequence_length < 1) checks.report("data.sequence_length", "is required and not given", "add data.sequence_length: 32k");
  checks.run_for_plan();
  check_model(config, model, checks);
  check_ranks(config, ranks, checks);
  raise_issues(issues);

  RunPlan plan;
  plan.sequence_length = config.data.sequence_length;
  plan.micro_batch = config.train.micro_batch;
  plan.global_batch = config.train.global_batch;
  plan.canonical_shards = plan.global_batch / plan.micro_batch;
  plan.ranks = ranks;
  plan.accumulation = plan.canonical_shards / ranks;
  plan.tokens_per_step = plan.micro_batch * plan.sequence_length * plan.accumulation * plan.ranks;
  plan.group = config.attention.kind == AttentionKind::full ? 0 : resolve_group(config.attention, plan.sequence_length);
  plan.total_steps = config.train.steps.value_or(0);
  plan.rope = extend_rope(model, config.rope, plan.sequence_length);
  return plan;
}

}  // namespace longlora
