// Runs the model on prepared cases for tests/hf/model_parity.py: loads CASE/model, reads CASE/input.safetensors and CASE/probe.json,
// writes CASE/out.safetensors with logits, the loss sum and every gradient. usage: model_probe CASE...
#include <ATen/ops/empty.h>

#include <filesystem>

#include "longlora/checkpoint/model_io.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/model/llama.h"

namespace longlora {
namespace {

const JsonValue& member(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  LONGLORA_CHECK(value != nullptr, data, "key " + std::string(key) + " is absent", "probe.json", "write it");
  return *value;
}
int64_t integer(const JsonValue& object, std::string_view key) {
  return static_cast<int64_t>(member(object, key).unsigned_integer().value());
}

at::Tensor read_tensor(const WeightSource& source, std::string_view name, at::ScalarType type) {
  const TensorInfo* info = source.find(name);
  LONGLORA_CHECK(info != nullptr, data, "tensor " + std::string(name) + " is absent", "input.safetensors", "write it");
  at::Tensor t = at::empty(info->shape, at::TensorOptions().dtype(type));
  source.read(*info, 0, std::span(static_cast<std::byte*>(t.data_ptr()), t.nbytes()));
  return t;
}

TrainConfig::Tuning tuning_of(const JsonValue& probe) {
  TrainConfig::Tuning t;
  t.mode = *member(probe, "tuning").string() == "full" ? TuningMode::full : TuningMode::lora;
  t.lora.rank = integer(probe, "rank");
  t.lora.alpha = member(probe, "alpha").number().value();
  t.train_head = *member(probe, "train_head").boolean();
  t.lora.targets.clear();
  for (const JsonValue& target : *member(probe, "targets").array())
    t.lora.targets.push_back(static_cast<LoraTarget>(target.unsigned_integer().value()));
  return t;
}

void load_adapters(LlamaModel& model, const WeightSource& input) {
  model.visit([&](Parameter& p) {
    if (p.role != Role::lora) return;
    p.master.copy_(read_tensor(input, p.name, at::kFloat));
    p.weight.copy_(p.master);
  });
}

/// All output tensors by name, fp32 but the loss sum.
std::map<std::string, at::Tensor> outputs(LlamaModel& model, const ModelInput& input) {
  std::map<std::string, at::Tensor> out;
  out["logits"] = model.logits(input);
  at::Tensor hidden = model.forward(input);
  int64_t targets = 0;
  for (int64_t i = 0; i < input.labels_BT.numel(); ++i) targets += input.labels_BT.const_data_ptr<int32_t>()[i] != kIgnoredLabel;
  const LossSum loss = model.loss_backward(hidden, input.labels_BT, static_cast<float>(1.0 / static_cast<double>(targets)));
  model.backward(hidden, input);
  out["nll_sum"] = at::empty({1}, at::TensorOptions().dtype(at::kDouble)).fill_(loss.nll_sum);
  model.visit([&](Parameter& p) {
    if (p.trainable) out["grad." + p.name] = p.grad;
  });
  return out;
}

void write(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const auto& [name, t] : tensors)
    declared.push_back({name, t.scalar_type() == at::kDouble ? DType::f64 : DType::f32, Shape(t.sizes().begin(), t.sizes().end())});
  SafetensorsWriter writer(file, std::move(declared));
  for (size_t i = 0; i < writer.order().size(); ++i) {
    const at::Tensor t = tensors.at(writer.order()[i].name).contiguous();
    writer.write(i, std::as_bytes(std::span(static_cast<const char*>(t.const_data_ptr()), t.nbytes())));
  }
  writer.finish();
}

void run_case(const std::filesystem::path& folder) {
  const JsonValue probe = parse_json(read_file(folder / "probe.json", 1 << 20), "probe.json");
  const BaseModel base(folder / "model");
  const int64_t context = base.config.max_position;
  LlamaModel model(base.config, base.config.rope, context, context, {.tuning = tuning_of(probe), .row_tile = integer(probe, "row_tile")});
  load_base_weights(model, base, true);
  const auto input = open_safetensors(folder / "input.safetensors");
  load_adapters(model, *input);
  if (*member(probe, "attention").string() == "s2")
    model.set_attention({AttentionKind::s2, AttentionPattern::cross_heads, integer(probe, "group")});
  write(folder / "out.safetensors",
        outputs(model, {.ids_BT = read_tensor(*input, "ids", at::kInt), .labels_BT = read_tensor(*input, "labels", at::kInt)}));
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
  return longlora::run_guarded([&] {
    for (int i = 1; i < argc; ++i) longlora::run_case(argv[i]);
    return 0;
  });
}
