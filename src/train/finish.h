#pragma once
#include <filesystem>

#include "longlora/train/prepare.h"

namespace longlora {

/// output_dir/adapter (LoRA) or output_dir/model (full tuning): an older one is replaced only when the new one is complete.
/// Returns the folder, empty when nothing is trained.
std::filesystem::path export_result(LlamaModel&, const PreparedRun&, const std::map<std::string, std::string>& identity);
/// The reduced gradients in Parameter::grad as safetensors, fp32, under PEFT names (LoRA) or Hugging Face names (full).
void dump_gradients(LlamaModel&, const LossSum&, const std::filesystem::path& file, TuningMode);
ExportContext export_context(const PreparedRun&);
/// A model that started from config.json alone has no stored dtype but the one config.json names; nullopt: the base's own.
std::optional<DType> export_dtype(const BaseModel&);

}  // namespace longlora
