#pragma once
// A tokenizer as lists, the way a GGUF file stores it (keys tokenizer.ggml.*): produced by `formats`, turned into files by `tokenizer`.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>
namespace longlora {
struct TokenizerParts {
  std::string model, pre;                 // "gpt2" (byte-level BPE) or "llama" (sentencepiece BPE); pre-tokenizer name
  std::vector<std::string> tokens, merges;
  std::vector<float> scores;
  std::vector<int32_t> types;             // 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte
  std::optional<int64_t> bos, eos, unknown, padding;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::string chat_template;
};
}  // namespace longlora
