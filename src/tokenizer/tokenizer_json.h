#pragma once
// tokenizer.json as plain parts, read and checked: no file reaches the encoder whose ids, merges or steps do not fit together.

#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/bpe_model.h"
#include "tokenizer/json_steps.h"

namespace longlora {

struct TokenizerJson {
  std::unique_ptr<Vocabulary> model_tokens;   // of the model; the BPE keeps a pointer to it
  std::unique_ptr<BpeModel> model;
  std::vector<AddedToken> added_tokens;       // ids agree with model_tokens where the text is in both
  std::vector<Normalizer> normalizer;
  std::vector<PreTokenizer> pre_tokenizer;
  std::vector<Decoder> decoder;
  AroundText around;
};

/// Limits: 64 MiB of text, 2^20 tokens, 2^21 merges. What is not supported: ErrorKind::data naming the part.
TokenizerJson read_tokenizer_json(std::string_view text, std::string_view file);

inline constexpr size_t kMaxTokenizerJsonBytes = size_t{64} << 20;

}  // namespace longlora
