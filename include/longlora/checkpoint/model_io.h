#pragma once
// Weights in and out of a LlamaModel: Hugging Face folders, GGUF files, PEFT adapters, merged export (docs/formats.md sections 5 to 7).
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/formats/weights.h"
#include "longlora/model/llama.h"

namespace longlora {

constexpr uint64_t kDefaultShardBytes = 5'000'000'000;  // largest file of an exported model

/// A base model on disk: Hugging Face folder or .gguf file. Headers are checked at construction, nothing is loaded.
struct BaseModel {
  explicit BaseModel(const std::filesystem::path& path,
                     bool weights_needed = true);  // weights_needed false: config.json alone (model.init: random)
  std::filesystem::path path;
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;  // null when not needed
  bool is_gguf = false;
};

/// Reads every base tensor into the model (converted to the compute dtype, round to nearest even), masters of trainables from the
/// unrounded fp32 values. Non-finite values (when `check_finite`): ErrorKind::data naming tensor and index.
/// Returns the state lanes of each tensor as loaded (identity of inputs for the resume check). Where ranks share the frozen projections
/// each reads its own part, the lanes are those of the whole tensors, and the call is collective.
std::map<std::string, StateLanes> load_base_weights(LlamaModel&, const BaseModel&, bool check_finite);

/// What longlora_train.json beside an adapter says; exact RoPE of the trained model.
struct AdapterInfo {
  TrainConfig::Tuning tuning;  // rank, alpha, targets, rslora, which saved modules
  std::optional<RopeScaling> rope;
  std::optional<int64_t> max_position, context, base_context;
  std::string base_model;
  std::optional<int64_t> group;
  std::optional<AttentionKind> attention;
};
AdapterInfo read_adapter_info(const std::filesystem::path& adapter_folder, const ModelConfig& base);
/// Applies LoRA and saved modules to a model made with info.tuning. Prints the number of tensors applied per role.
void load_adapter(LlamaModel&, const std::filesystem::path& adapter_folder);

struct ExportContext {
  const BaseModel* base = nullptr;
  RopeExtension rope;
  std::string version;
  int64_t group = 0;
  AttentionKind attention = AttentionKind::full;
  std::map<std::string, std::string> card;  // model card facts: method, data digests, evaluation lines
};
/// PEFT folder (adapter_config.json, adapter_model.safetensors, longlora_train.json, README.md, tokenizer files); complete or absent.
void export_peft(LlamaModel&, const ExportContext&, const std::filesystem::path& to);
/// Merged (lora) or full folder: W = fp32(base) + s B A in fp32, rounded once; re-read, recomputed in fp64 (64 rows of every merged
/// tensor, <= 1 ulp), compared, renamed. One tensor in memory at a time. `dtype` nullopt: the base's stored dtype.
void export_merged(LlamaModel&, const ExportContext&, const std::filesystem::path& to, std::optional<DType> dtype,
                   uint64_t max_shard_bytes);
/// GGUF file or Hugging Face folder -> Hugging Face folder (dtype nullopt: F32 for GGUF, stored dtype else).
void import_model(const BaseModel&, const std::filesystem::path& to, std::optional<DType> dtype, uint64_t max_shard_bytes);

}  // namespace longlora
