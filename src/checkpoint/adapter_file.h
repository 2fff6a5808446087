#pragma once
// A PEFT adapter folder, read and matched against a base model: every tensor has a parameter of the base with the right shape.
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "longlora/checkpoint/model_io.h"
#include "longlora/core/json.h"
#include "longlora/formats/weights.h"

namespace longlora {

struct AdapterTensor {
  const WeightSource* source = nullptr;
  TensorInfo info;
  Role role = Role::lora;
};

struct AdapterFile {
  /// Reads adapter_config.json and the headers of adapter_model.safetensors and trainable_params.safetensors (LongLoRA's layout).
  /// Everything that does not fit the base is one ErrorKind::data with up to 20 details.
  AdapterFile(const std::filesystem::path& folder, const ModelConfig& base);

  std::filesystem::path folder;
  TrainConfig::Tuning tuning;
  std::string base_model;
  std::vector<std::unique_ptr<WeightSource>> sources;
  std::map<std::string, AdapterTensor> tensors;  // by parameter name

 private:
  void read_config();
  void add_file(const std::filesystem::path& file, const ModelConfig& base, std::vector<std::string>& problems);
  void check_tied_head(const ModelConfig& base, std::vector<std::string>& problems);
  void derive_tuning(const ModelConfig& base, std::vector<std::string>& problems);
};

}  // namespace longlora
