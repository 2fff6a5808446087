#pragma once
// tokenizer.model through sentencepiece 0.2.1 (linked statically, symbols hidden).

#include <memory>
#include <string>
#include <string_view>

#include "longlora/tokenizer/tokenizer.h"
#include "tokenizer/policy.h"

namespace longlora {

/// `bytes` are walked first (model_proto.h), then given to the library from memory. `file` is named in errors.
std::unique_ptr<Tokenizer> make_sp_tokenizer(const std::string& bytes, std::string_view file, const TokenizerPolicy&, const Digest&);

}  // namespace longlora
