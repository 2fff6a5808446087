#pragma once
// GGUF version 2 and 3, architecture llama: bounded reader (docs/formats.md), dequantisation, and what a Hugging Face folder needs.

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/core/tokenizer_parts.h"
#include "longlora/formats/weights.h"

namespace longlora {

class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path&);
  ~GgufFile();
  /// Model configuration with the names of config.json (RoPE, eps as the shortest decimal of the fp32 value, tied when no output.weight).
  const ModelConfig& config() const;
  const TokenizerParts& tokenizer() const;
  /// Tensors under Hugging Face names, fp32, dequantised, q and k rows un-permuted. read() ranges must be whole rows.
  std::unique_ptr<WeightSource> weights() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace longlora
