#pragma once
// tokenizer.json (BPE of the sentencepiece kind and of the byte-level kind).

#include <memory>
#include <string_view>

#include "longlora/tokenizer/tokenizer.h"
#include "tokenizer/policy.h"

namespace longlora {

/// `file` is named in errors. The digest is the caller's.
std::unique_ptr<Tokenizer> make_json_tokenizer(std::string_view text, std::string_view file, const TokenizerPolicy&, const Digest&);

}  // namespace longlora
