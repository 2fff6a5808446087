#pragma once
// Token files: our own `.tokens` (docs/data.md: 256-byte header, tokens, document index, spans, metadata JSON), llm.c `.bin`, raw uint16.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "longlora/core/files.h"
#include "longlora/core/hash.h"

namespace longlora {

struct TokenSpan { uint64_t begin, end; };                 // half-open

/// Random access to the ids of one file; const and thread-safe.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual uint64_t num_tokens() const = 0;
  virtual std::span<const uint64_t> document_starts() const = 0;      // M + 1 entries: first 0, last num_tokens()
  virtual std::span<const TokenSpan> target_spans() const { return {}; }   // empty: every token after a document's first
  virtual void read(uint64_t first, std::span<int32_t> out) const = 0;
  virtual uint32_t vocab_size() const = 0;                 // 0 when the format does not say
  virtual uint32_t largest_id() const = 0;
  virtual std::optional<Digest> tokenizer_digest() const { return std::nullopt; }
  virtual Digest content_digest() const = 0;               // SHA-256 of the file's payload
  virtual const std::filesystem::path& path() const = 0;
};

std::unique_ptr<TokenSource> open_token_file(const std::filesystem::path&);                                   // LLTOKEN1
std::unique_ptr<TokenSource> open_llmc(const std::filesystem::path&, std::optional<int64_t> eos);
std::unique_ptr<TokenSource> open_raw_uint16(const std::filesystem::path&, std::optional<int64_t> eos = {});  // one document, or split at eos

struct TokenFileWriter {                                   // FILE.tmp-<nonce>, fsync, rename; spans optional
  TokenFileWriter(std::filesystem::path target, uint32_t vocab_size, Digest tokenizer, Digest key, bool with_spans);
  ~TokenFileWriter();
  void add_document(std::span<const int32_t> ids, std::span<const TokenSpan> spans_in_document = {});
  void finish(std::string metadata_json);                  // target exists: ErrorKind::busy unless `replace`
  bool replace = false;
 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longlora
