#pragma once
// Tokenizers of Llama-family folders: sentencepiece `tokenizer.model` and `tokenizer.json` (BPE, SPM kind and byte-level kind).
// Const and thread-safe after construction. Rules and limits: docs/formats.md. Errors: ErrorKind::data with file and place.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/hash.h"
#include "longlora/core/tokenizer_parts.h"

namespace longlora {

struct EncodeOptions {
  bool add_bos = false;          // BOS / EOS whatever the tokenizer's own configuration says
  bool add_eos = false;
  bool parse_special = false;    // text of special tokens becomes their id
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Time O(n log n) in the bytes. Invalid UTF-8: ErrorKind::data with the byte offset.
  virtual std::vector<int32_t> encode(std::string_view text, const EncodeOptions& = {}) const = 0;
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special = true) const = 0;
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual std::string token_of(int32_t id) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  virtual bool adds_bos() const = 0;                       // the tokenizer's own configuration (add_bos_token or post-processor)
  virtual bool adds_eos() const = 0;
  virtual bool is_special(int32_t id) const = 0;
  /// SHA-256 over the bytes of the files used, in name order.
  const Digest& digest() const { return digest_; }

 protected:
  Digest digest_{};
};

/// tokenizer.json if present, else tokenizer.model, else ErrorKind::missing.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);
bool has_tokenizer(const std::filesystem::path& folder);

/// Files of a Hugging Face folder ({name, bytes}) made from a GGUF file's tokenizer metadata (docs/formats.md).
struct NamedFile { std::string name, bytes; };
std::vector<NamedFile> tokenizer_files_from_gguf(const TokenizerParts&, int64_t embedding_rows, int64_t context);

}  // namespace longlora
