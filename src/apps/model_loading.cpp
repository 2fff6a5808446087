#include "apps/model_loading.h"

#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/train/environment.h"
#include "longlora/train/prepare.h"

namespace longlora::apps {
namespace {

/// --rope-factor states the total linear factor; other types have no factor of their own to replace.
RopeScaling stretched(RopeScaling rope, double factor) {
  LONGLORA_CHECK(rope.type == RopeType::none || rope.type == RopeType::linear, config,
                 "a linear factor cannot replace the RoPE scaling of this model", "--rope-factor", "leave --rope-factor out");
  rope.type = factor == 1 ? RopeType::none : RopeType::linear;
  rope.factor = factor;
  return rope;
}

/// The group our own exports note in config.json under longlora_train; 0 when there is none.
int64_t group_in_config(const ModelConfig& config) {
  const JsonValue json = parse_json(config.json, "config.json");
  const JsonValue* note = json.find("longlora_train");
  const JsonValue* group = note == nullptr ? nullptr : note->find("group");
  return group == nullptr ? 0 : static_cast<int64_t>(group->unsigned_integer().value_or(0));
}

ComputeType compute_of(const std::string& dtype, const ComputeDevice& device) {
  TrainConfig config;
  config.precision.compute = dtype == "bf16" ? ComputeType::bf16 : dtype == "fp32" ? ComputeType::fp32 : ComputeType::automatic;
  return resolve_compute(config, device);
}

}  // namespace

std::string ReadyModel::rope_text() const { return fmt::format("{} factor {}", name_of(rope.type), rope.factor); }

ReadyModel load_model(const ModelRequest& request) {
  ReadyModel ready;
  ready.base = std::make_unique<BaseModel>(request.model);
  const ModelConfig& config = ready.base->config;
  ready.rope = config.rope;
  ready.trained_group = group_in_config(config);
  const ComputeDevice device = choose_device(request.device);
  ModelOptions options{.compute = compute_of(request.dtype, device), .device = device.where};
  options.tuning.mode = TuningMode::none;
  if (device.is_gpu()) log_info("device {}", device.name);
  int64_t max_position = config.max_position, trained_context = config.declared_context.value_or(config.max_position);
  if (!request.adapter.empty()) {
    ready.adapter = read_adapter_info(request.adapter, config);
    options.tuning = ready.adapter->tuning;
    if (ready.adapter->rope) ready.rope = *ready.adapter->rope;
    max_position = ready.adapter->max_position.value_or(max_position);
    trained_context = ready.adapter->context.value_or(trained_context);
    ready.trained_group = ready.adapter->group.value_or(ready.trained_group);
    LONGLORA_CHECK(ready.adapter->rope || request.rope_factor > 0 || request.longest <= trained_context, config,
                   "the adapter does not say how RoPE was extended and the context exceeds " + std::to_string(trained_context),
                   request.adapter.string(), "give --rope-factor");
  }
  if (request.rope_factor > 0) ready.rope = stretched(ready.rope, request.rope_factor);
  ready.model = std::make_unique<LlamaModel>(config, ready.rope, max_position, std::max(request.longest, trained_context), options);
  load_base_weights(*ready.model, *ready.base, true);
  if (!request.adapter.empty()) load_adapter(*ready.model, request.adapter);
  ready.tokenizer = base_tokenizer(*ready.base);
  return ready;
}

}  // namespace longlora::apps
