#pragma once
// tokenizer_config.json: what a folder says about BOS, EOS and sentencepiece's older habits. The chat template is kept, not executed.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"

namespace longlora {

struct TokenizerPolicy {
  std::optional<std::string> bos_token, eos_token;
  std::optional<bool> adds_bos, adds_eos;
  bool legacy = true;                      // a dummy prefix space after every special token (tokenizer.model only)
  std::vector<AddedToken> added_tokens;    // added_tokens_decoder (tokenizer.model only; tokenizer.json holds its own)
};

/// `file` is named in errors. Unknown keys are left alone: the file serves many programs.
TokenizerPolicy read_policy(std::string_view text, std::string_view file);

}  // namespace longlora
