#include "checkpoint/adapter_file.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <set>

#include "checkpoint/adapter_names.h"
#include "longlora/config/names.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

constexpr std::string_view kConfigName = "adapter_config.json";
constexpr std::string_view kWeightsName = "adapter_model.safetensors";
constexpr std::string_view kSavedModulesName = "trainable_params.safetensors";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr int64_t kMaxRank = 65'536;

/// Keys whose feature this program does not have: they must be absent, null, false or empty.
constexpr std::array<std::string_view, 11> kAbsentFeatures{"use_dora",
                                                           "rank_pattern",
                                                           "alpha_pattern",
                                                           "fan_in_fan_out",
                                                           "layers_to_transform",
                                                           "layer_replication",
                                                           "trainable_token_indices",
                                                           "target_parameters",
                                                           "lora_bias",
                                                           "use_qalora",
                                                           "exclude_modules"};

bool is_empty_value(const JsonValue& value) {
  if (const bool* boolean = value.boolean()) return !*boolean;
  return value.is_null() || (value.object() && value.object()->empty()) || (value.array() && value.array()->empty());
}

[[noreturn]] void refuse(const fs::path& file, std::string_view key, std::string what) {
  fail(ErrorKind::data, std::move(what), fmt::format("{}: {}", file.string(), key),
       "use a plain LoRA adapter (peft_type LORA, bias none, no DoRA)");
}

double number_or(const JsonValue& root, std::string_view key, double fallback, const fs::path& file) {
  const JsonValue* value = root.find(key);
  if (!value) return fallback;
  const auto number = value->number();
  if (!number) refuse(file, key, fmt::format("got {}, expected a number", value->type_name()));
  return *number;
}

std::vector<int64_t> base_shape(const ModelConfig& base, const std::string& name, Role& role) {
  for (const TensorSpec& spec : tensor_table(base)) {
    if (spec.name != name) continue;
    role = spec.role;
    return spec.shape;
  }
  return {};
}

/// [rank, in] or [out, rank] of the projection that the LoRA tensor belongs to; empty when there is none.
std::vector<int64_t> lora_shape(const ModelConfig& base, const std::string& name, int64_t rank) {
  const size_t at = name.rfind(".lora_");
  Role role = Role::lora;
  const std::vector<int64_t> projection = base_shape(base, name.substr(0, at) + ".weight", role);
  if (role != Role::projection) return {};
  return name.substr(at).starts_with(".lora_A") ? std::vector<int64_t>{rank, projection[1]} : std::vector<int64_t>{projection[0], rank};
}

bool has_more_rows(const Shape& found, const Shape& expected) {
  return found.size() == 2 && expected.size() == 2 && found[0] > expected[0] && found[1] == expected[1];
}

}  // namespace

AdapterFile::AdapterFile(const fs::path& adapter_folder, const ModelConfig& base) : folder(adapter_folder) {
  LONGLORA_CHECK(fs::is_directory(folder), missing, "the adapter folder is not there", folder.string(), "check --adapter");
  read_config();
  std::vector<std::string> problems;
  const fs::path weights = folder / kWeightsName, pickle = folder / "adapter_model.bin";
  if (!fs::exists(weights) && fs::exists(pickle)) refuse_foreign(pickle);
  add_file(weights, base, problems);
  if (fs::exists(folder / kSavedModulesName))
    add_file(folder / kSavedModulesName, base, problems);
  else if (fs::exists(folder / "trainable_params.bin"))
    refuse_foreign(folder / "trainable_params.bin");
  check_tied_head(base, problems);
  derive_tuning(base, problems);
  if (problems.empty()) return;
  const size_t count = problems.size();
  const std::string first = problems.front();
  if (count > 20) problems.resize(20);
  fail(ErrorKind::data, fmt::format("the adapter does not fit the base model, {} problems, first: {}", count, first), folder.string(),
       "name the base model that the adapter was trained on", std::move(problems));
}

void AdapterFile::read_config() {
  const fs::path file = folder / kConfigName;
  const JsonValue root = parse_json(read_file(file, uint64_t{1} << 20), file.string());
  const JsonValue* type = root.find("peft_type");
  if (!type || !type->string() || *type->string() != "LORA") refuse(file, "peft_type", "the adapter is not of type LORA");
  if (const JsonValue* bias = root.find("bias"); bias && !bias->is_null() && !(bias->string() && *bias->string() == "none")) {
    refuse(file, "bias", "trained biases are not supported");
  }
  for (const std::string_view key : kAbsentFeatures) {
    const JsonValue* value = root.find(key);
    if (value && !is_empty_value(*value)) refuse(file, key, "this feature of PEFT is not supported");
  }
  const JsonValue* rank = root.find("r");
  const auto rank_value = rank ? rank->unsigned_integer() : std::nullopt;
  if (!rank_value || *rank_value < 1 || *rank_value > kMaxRank) refuse(file, "r", "the rank is not an integer from 1 to 65536");
  tuning.mode = TuningMode::lora;
  tuning.lora.rank = static_cast<int64_t>(*rank_value);
  tuning.lora.alpha = number_or(root, "lora_alpha", 8, file);  // PEFT's own default
  tuning.lora.drop_probability = number_or(root, "lora_dropout", 0, file);
  if (const JsonValue* value = root.find("use_rslora")) tuning.lora.rslora = value->boolean() && *value->boolean();
  if (const JsonValue* name = root.find("base_model_name_or_path"); name && name->string()) base_model = *name->string();
}

void AdapterFile::add_file(const fs::path& file, const ModelConfig& base, std::vector<std::string>& problems) {
  sources.push_back(open_safetensors(file));
  for (const TensorInfo& info : sources.back()->tensors()) {
    const std::string name = parameter_name(info.name);
    AdapterTensor tensor{.source = sources.back().get(), .info = info};
    const bool is_lora = !lora_target_of(name).empty();
    const bool is_tied_head = base.tied && name == kHead;
    const std::vector<int64_t> expected = is_lora        ? lora_shape(base, name, tuning.lora.rank)
                                          : is_tied_head ? base_shape(base, std::string(kEmbedding), tensor.role)
                                                         : base_shape(base, name, tensor.role);
    const bool may_have_more_rows = tensor.role == Role::embedding || tensor.role == Role::head;
    if (expected.empty() || (!is_lora && tensor.role == Role::projection)) {
      problems.push_back(fmt::format("tensor {} has no counterpart in the base model", info.name));
    } else if (info.shape != expected && !(may_have_more_rows && has_more_rows(info.shape, expected))) {
      problems.push_back(fmt::format("tensor {} has shape {}, expected {}", info.name, to_string(info.shape), to_string(expected)));
    } else if (size_of(info.dtype) < 2 || info.dtype > DType::bf16) {
      problems.push_back(fmt::format("tensor {} has dtype {}, expected F64, F32, F16 or BF16", info.name, name_of(info.dtype)));
    } else if (!tensors.emplace(name, tensor).second) {
      problems.push_back(fmt::format("tensor {} is given twice", info.name));
    }
  }
}

/// On a tied model PEFT needs the head written beside the embedding; it must be the same one.
void AdapterFile::check_tied_head(const ModelConfig& base, std::vector<std::string>& problems) {
  const auto head = tensors.find(std::string(kHead));
  if (!base.tied || head == tensors.end()) return;
  const auto embedding = tensors.find(std::string(kEmbedding));
  if (embedding == tensors.end() ||
      !same_tensor(*head->second.source, head->second.info, *embedding->second.source, embedding->second.info)) {
    problems.push_back("the base model is tied, but lm_head differs from embed_tokens");
  }
  tensors.erase(head);
}

void AdapterFile::derive_tuning(const ModelConfig& base, std::vector<std::string>& problems) {
  std::set<std::string> modules;
  std::map<Role, int64_t> counts;
  for (const auto& [name, tensor] : tensors) {
    ++counts[tensor.role];
    if (tensor.role == Role::lora) modules.insert(lora_target_of(name));
  }
  tuning.lora.targets.clear();
  for (const auto& [name, target] : names_of(LoraTarget{})) {
    if (modules.contains(std::string(name))) tuning.lora.targets.push_back(target);
  }
  tuning.train_norms = counts[Role::norm] > 0;
  tuning.train_embeddings = counts[Role::embedding] > 0;
  if (!base.tied) tuning.train_head = counts[Role::head] > 0;
  if (!problems.empty()) return;  // the counts would only repeat them
  const int64_t expected = static_cast<int64_t>(tuning.lora.targets.size()) * base.num_layers * 2;
  if (counts[Role::lora] == 0) problems.push_back("it has no LoRA tensors");
  if (counts[Role::lora] != expected) {
    problems.push_back(fmt::format("{} LoRA tensors, expected {}: A and B of every target in every layer", counts[Role::lora], expected));
  }
}

}  // namespace longlora
