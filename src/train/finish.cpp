#include "train/finish.h"

#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/formats/weights.h"
#include "longlora/train/version.h"

namespace longlora {
namespace {

/// The old result is moved aside while the new one is written, so there is no moment without a complete one under some name.
template <class F>
void replace_folder(const std::filesystem::path& target, F&& write) {
  const std::filesystem::path aside = target.parent_path() / ("trash-" + target.filename().string() + "-" + process_nonce());
  const bool had_old = std::filesystem::exists(target);
  if (had_old) std::filesystem::rename(target, aside);
  try {
    write();
  } catch (...) {
    if (had_old) std::filesystem::rename(aside, target);
    throw;
  }
  std::error_code ignored;
  if (had_old) std::filesystem::remove_all(aside, ignored);
}

}  // namespace

std::optional<DType> export_dtype(const BaseModel& base) {
  if (base.weights != nullptr) return std::nullopt;
  const JsonValue json = parse_json(base.config.json, "config.json");
  const JsonValue* name = json.find("torch_dtype");
  if (name == nullptr) name = json.find("dtype");
  if (name == nullptr || name->string() == nullptr) return DType::f32;
  return *name->string() == "bfloat16" ? DType::bf16 : *name->string() == "float16" ? DType::f16 : DType::f32;
}

ExportContext export_context(const PreparedRun& run) {
  ExportContext context{.base = run.base.get(),
                        .rope = run.plan.rope,
                        .version = std::string(kVersion),
                        .group = run.plan.group,
                        .attention = run.config().attention.kind};
  context.card["method"] = run.config().tuning.mode == TuningMode::full ? "full fine-tuning" : "LoRA";
  context.card["sequence_length"] = std::to_string(run.plan.sequence_length);
  context.card["steps"] = std::to_string(run.plan.total_steps);
  return context;
}

std::filesystem::path export_result(LlamaModel& model, const PreparedRun& run, const std::map<std::string, std::string>& identity) {
  ExportContext context = export_context(run);
  if (const auto data = identity.find("data"); data != identity.end()) context.card["data_sha256"] = data->second;
  const std::filesystem::path output = run.config().output_dir;
  std::filesystem::path target;
  if (run.config().tuning.mode == TuningMode::lora) {
    target = output / "adapter";
    replace_folder(target, [&] { export_peft(model, context, target); });
  } else if (run.config().tuning.mode == TuningMode::full) {
    target = output / "model";
    replace_folder(target, [&] { export_merged(model, context, target, export_dtype(*run.base), kDefaultShardBytes); });
  }
  return target;
}

void dump_gradients(LlamaModel& model, const LossSum& loss, const std::filesystem::path& file, TuningMode mode) {
  std::map<std::string, const Parameter*> by_name;
  std::vector<SafetensorsWriter::Declared> declared;
  for (const Parameter* p : model.trainable()) {
    const std::string name = (mode == TuningMode::lora && p->role == Role::lora ? "base_model.model." : "") + p->name;
    by_name[name] = p;
    declared.push_back({name, DType::f32, p->grad.sizes().vec()});
  }
  SafetensorsWriter writer(file, declared, {{"loss_sum", json_number(loss.nll_sum)}, {"target_tokens", std::to_string(loss.targets)}});
  for (size_t i = 0; i < writer.order().size(); ++i) {
    const at::Tensor gradient = by_name.at(writer.order()[i].name)->grad.cpu().contiguous();
    writer.write(i, std::as_bytes(std::span(gradient.const_data_ptr<float>(), static_cast<size_t>(gradient.numel()))));
  }
  writer.finish();
}

}  // namespace longlora
