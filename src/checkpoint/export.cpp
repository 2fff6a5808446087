// Exports and import: complete or absent folders (docs/formats.md sections 5 to 7).
#include <fmt/format.h>

#include "checkpoint/adapter_file.h"
#include "checkpoint/adapter_names.h"
#include "checkpoint/folder_files.h"
#include "checkpoint/merged_weights.h"
#include "checkpoint/row_stream.h"
#include "checkpoint/tensor_tools.h"
#include "checkpoint/train_record.h"
#include "longlora/checkpoint/pending_folder.h"
#include "longlora/config/names.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

constexpr uint64_t kSmallFilesBytes = uint64_t{1} << 20;  // config, card and the like; tokenizer files are covered by the 10 %

/// Runs `write`, syncs and publishes. A failure names the unfinished folder, which stays until the next start for this target.
void publish_folder(const fs::path& to, uint64_t bytes, const std::function<void(const fs::path&)>& write) {
  PendingFolder pending(to);
  try {
    require_space(pending.path(), bytes + kSmallFilesBytes);
    write(pending.path());
    pending.sync();
    pending.publish();
  } catch (const Error& error) {
    throw Error(error.kind, error.what_happened, fmt::format("{}; unfinished output in {}", error.where, pending.path().string()),
                error.what_to_do, error.details);
  }
}

/// Reads the written folder the way a user's next command would.
void reread(const fs::path& folder, const std::map<std::string, Digest>& digests, const std::function<void(const WeightSource&)>& check) {
  const ModelConfig config = read_model_config(folder);
  const std::unique_ptr<WeightSource> written = open_weight_folder(folder);
  check_against_table(*written, config, folder.string());
  compare_weights(*written, digests);
  check(*written);
}

constexpr std::string_view kMergedUsage =
    "Use it like any Llama model: `AutoModelForCausalLM.from_pretrained(FOLDER)`; config.json holds the new context and RoPE scaling.\n";

std::string python_literal(std::string text) {
  for (const auto& [json, python] : {std::pair{":true", ":True"}, {":false", ":False"}, {":null", ":None"}}) {
    for (size_t at = 0; (at = text.find(json, at)) != std::string::npos;) text.replace(at, std::string_view(json).size(), python);
  }
  return text;
}

/// Keyword arguments of from_pretrained: one dictionary in transformers 5, two keys in transformers 4.
std::string adapter_usage(const ExportContext& context) {
  std::string theta = json_number(context.rope.after.theta), scaling = "null", position = std::to_string(context.rope.new_max_position);
  for (const auto& [key, value] : rope_keys(context)) {
    if (key == "rope_theta") theta = value;
    if (key == "rope_scaling") scaling = value;
  }
  const std::string kind = scaling == "null" ? "{\"rope_type\":\"default\"" : scaling.substr(0, scaling.size() - 1);
  const std::string base = context.base->path.string();
  if (!context.rope.changed) {
    return fmt::format(
        "```python\nbase = AutoModelForCausalLM.from_pretrained(\"{}\")\nmodel = PeftModel.from_pretrained(base, FOLDER)\n```\n", base);
  }
  return fmt::format(
      "The base's config.json does not know the new context. Load the base with these values, then the adapter:\n\n"
      "```python\nbase = AutoModelForCausalLM.from_pretrained(\"{}\", max_position_embeddings={},\n"
      "    rope_parameters={},\"rope_theta\":{}}})   # transformers 5\n"
      "    # transformers 4: rope_scaling={}, rope_theta={}\n"
      "model = PeftModel.from_pretrained(base, FOLDER)\n```\n",
      base, position, python_literal(kind), theta, scaling == "null" ? "None" : python_literal(scaling), theta);
}

/// A re-export without a change keeps the origin that the base records, so that its config.json keeps its bytes.
RopeExtension with_recorded_origin(RopeExtension rope, const ModelConfig& base) {
  if (rope.changed) return rope;
  const JsonValue config = parse_json(base.json, "config.json");
  const JsonValue* record = config.find("longlora_train");
  const JsonValue* origin = record ? record->find("base_context") : nullptr;
  if (origin && origin->unsigned_integer()) rope.old_context = static_cast<int64_t>(*origin->unsigned_integer());
  return rope;
}

// --- PEFT ---

struct SavedTensor {
  std::string name;
  at::Tensor values;
};

bool is_tied_embedding(const LlamaModel& model, const Parameter& parameter) {
  return model.config().tied && parameter.role == Role::embedding;
}

std::vector<SavedTensor> adapter_tensors(LlamaModel& model) {
  std::vector<SavedTensor> tensors;
  for (Parameter* parameter : model.trainable()) {
    tensors.push_back({peft_name(parameter->name), parameter->master});
    // PEFT's loader looks for the head's own key on a tied model.
    if (is_tied_embedding(model, *parameter)) tensors.push_back({peft_name("lm_head.weight"), parameter->master});
  }
  return tensors;
}

std::string quoted_list(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) text += (text.empty() ? "" : ", ") + json_quote(name);
  return "[" + text + "]";
}

std::vector<std::string_view> saved_modules(LlamaModel& model) {
  bool norms = false, embedding = false, head = false;
  for (const Parameter* parameter : model.trainable()) {
    norms = norms || parameter->role == Role::norm;
    embedding = embedding || parameter->role == Role::embedding;
    head = head || parameter->role == Role::head;
  }
  std::vector<std::string_view> modules;
  if (norms) modules = {"input_layernorm", "post_attention_layernorm", "norm"};
  if (embedding) modules.push_back("embed_tokens");
  if (head) modules.push_back("lm_head");
  return modules;
}

std::string integer_if_whole(double value) {
  return value == static_cast<double>(static_cast<int64_t>(value)) ? std::to_string(static_cast<int64_t>(value)) : json_number(value);
}

std::string adapter_config(LlamaModel& model, const ExportContext& context) {
  const TrainConfig::Tuning::Lora& lora = model.options().tuning.lora;
  std::vector<std::string_view> targets;
  for (const LoraTarget target : lora.targets) targets.push_back(name_of_value(target));
  const std::vector<std::string_view> modules = saved_modules(model);
  const bool ties = model.config().tied && std::find(modules.begin(), modules.end(), "embed_tokens") != modules.end();
  std::string text = "{\n  \"peft_type\": \"LORA\",\n  \"task_type\": \"CAUSAL_LM\",\n";
  text += fmt::format("  \"base_model_name_or_path\": {},\n  \"r\": {},\n  \"lora_alpha\": {},\n  \"lora_dropout\": {},\n",
                      json_quote(context.base->path.string()), lora.rank, integer_if_whole(lora.alpha), json_number(lora.drop_probability));
  text += fmt::format("  \"target_modules\": {},\n  \"modules_to_save\": {},\n", quoted_list(targets),
                      modules.empty() ? "null" : quoted_list(modules));
  text += fmt::format(
      "  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
      "  \"use_rslora\": {},\n  \"use_dora\": false,\n  \"rank_pattern\": {{}},\n  \"alpha_pattern\": {{}},\n",
      lora.rslora);
  if (ties) text += "  \"ensure_weight_tying\": true,\n";
  return text + "  \"revision\": null\n}\n";
}

void write_adapter_weights(const fs::path& file, const std::vector<SavedTensor>& tensors) {
  std::vector<SafetensorsWriter::Declared> declared;
  std::map<std::string, at::Tensor> by_name;
  for (const SavedTensor& tensor : tensors) {
    declared.push_back({tensor.name, DType::f32, tensor.values.sizes().vec()});
    by_name[tensor.name] = tensor.values;
    const auto bad = first_non_finite(tensor.values);
    LONGLORA_CHECK(!bad, data, "the weight is NaN or infinite", fmt::format("tensor {}, element {}", tensor.name, *bad),
                   "take an older checkpoint");
  }
  SafetensorsWriter writer(file, std::move(declared));
  for (size_t i = 0; i < writer.order().size(); ++i) writer.write(i, bytes_of(on_host(by_name.at(writer.order()[i].name))));
  const auto digests = writer.finish().tensors;
  compare_weights(*open_safetensors(file), digests);
}

// --- import ---

std::vector<PlannedTensor> stored_tensors(const BaseModel& base, std::optional<DType> dtype) {
  std::vector<PlannedTensor> planned;
  for (const TensorSpec& spec : tensor_table(base.config)) planned.push_back({spec, dtype.value_or(base.weights->find(spec.name)->dtype)});
  return planned;
}

/// config.json of an imported folder: the base's bytes unless the dtype changed.
std::string imported_config(const BaseModel& base, std::optional<DType> dtype, const std::string& torch_dtype) {
  if (base.is_gguf) return make_model_config(base.config, torch_dtype);
  if (!dtype) return base.config.json;
  JsonValue config = parse_json(base.config.json, "config.json");
  bool is_named = false;
  for (auto& [key, value] : std::get<JsonValue::Object>(config.value)) {
    if (key != "torch_dtype" && key != "dtype") continue;
    value.value = torch_dtype;
    is_named = true;
  }
  if (!is_named) std::get<JsonValue::Object>(config.value).emplace_back("torch_dtype", JsonValue{.value = torch_dtype});
  return dump_json(config, 2) + "\n";
}

}  // namespace

void export_peft(LlamaModel& model, const ExportContext& context, const fs::path& to) {
  LONGLORA_CHECK(model.options().tuning.mode == TuningMode::lora, config, "only a run with tuning.mode: lora has an adapter", to.string(),
                 "use --format merged");
  const std::vector<SavedTensor> tensors = adapter_tensors(model);
  uint64_t bytes = 0;
  for (const SavedTensor& tensor : tensors) bytes += static_cast<uint64_t>(tensor.values.numel()) * sizeof(float);
  publish_folder(to, bytes, [&](const fs::path& folder) {
    write_adapter_weights(folder / "adapter_model.safetensors", tensors);
    write_synced(folder, "adapter_config.json", adapter_config(model, context));
    write_synced(folder, std::string(kTrainRecordName), print_train_record(model, context));
    write_synced(folder, "README.md", model_card(context, "LoRA adapter for a longer context", adapter_usage(context)));
    write_tokenizer_files(*context.base, folder, context.rope.new_context);
    AdapterFile(folder, model.config());
  });
}

void export_merged(LlamaModel& model, const ExportContext& context, const fs::path& to, std::optional<DType> dtype,
                   uint64_t max_shard_bytes) {
  const BaseModel& base = *context.base;
  const MergedWeights merged(model, base);
  const std::vector<PlannedTensor> planned = merged.plan(dtype);
  publish_folder(to, total_bytes(planned), [&](const fs::path& folder) {
    const auto digests =
        write_weights(folder, planned, max_shard_bytes, [&](const PlannedTensor& t, const auto& use) { merged.feed(t, use); });
    if (base.weights) base.weights->check_unchanged();
    write_synced(folder, "config.json",
                 write_model_config(base.config, with_recorded_origin(context.rope, base.config), torch_dtype_name(planned),
                                    base.config.tied, context.version));
    write_generation_config(base, folder, context.rope.new_context);
    write_tokenizer_files(base, folder, context.rope.new_context);
    write_synced(folder, "README.md", model_card(context, "A Llama model with a longer context", kMergedUsage));
    reread(folder, digests, [&](const WeightSource& written) { merged.check_written(written); });
  });
}

void import_model(const BaseModel& base, const fs::path& to, std::optional<DType> dtype, uint64_t max_shard_bytes) {
  LONGLORA_INVARIANT(base.weights != nullptr);
  const std::vector<PlannedTensor> planned = stored_tensors(base, dtype);
  const TensorFeed feed = [&](const PlannedTensor& tensor, const auto& use) {
    for_each_block(*base.weights, *base.weights->find(tensor.spec.name),
                   [&](int64_t first, const at::Tensor& block) { use(round_block(block, tensor, first)); });
  };
  publish_folder(to, total_bytes(planned), [&](const fs::path& folder) {
    const auto digests = write_weights(folder, planned, max_shard_bytes, feed);
    base.weights->check_unchanged();
    write_synced(folder, "config.json", imported_config(base, dtype, torch_dtype_name(planned)));
    write_generation_config(base, folder, 0);
    write_tokenizer_files(base, folder, base.is_gguf ? base.config.max_position : 0);
    reread(folder, digests, [](const WeightSource&) {});
  });
}

}  // namespace longlora
