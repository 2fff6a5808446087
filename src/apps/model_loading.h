#pragma once
// A model for reading only (eval, generate, export): base folder, optional adapter, RoPE as trained or stretched by hand.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "longlora/checkpoint/model_io.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora::apps {

struct ModelRequest {
  std::filesystem::path model, adapter;  // adapter may be empty
  double rope_factor = 0;                // 0: what the folder says; else total linear factor (position interpolation)
  std::string dtype = "auto";            // auto, bf16, fp32
  std::string device = "auto";           // auto, cpu, cuda
  int64_t longest = 0;                   // longest context to be read (dynamic RoPE, warnings)
};

struct ReadyModel {
  std::unique_ptr<BaseModel> base;
  std::unique_ptr<LlamaModel> model;
  std::unique_ptr<Tokenizer> tokenizer;  // null when the folder has none
  RopeScaling rope;
  std::optional<AdapterInfo> adapter;
  int64_t trained_group = 0;      // 0: unknown
  std::string rope_text() const;  // "linear factor 8"
};
ReadyModel load_model(const ModelRequest&);

}  // namespace longlora::apps
