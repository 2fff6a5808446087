#pragma once
// Token files: our own `.tokens` (docs/data.md: 256-byte header, tokens, document index, spans, metadata JSON), llm.c `.bin`, raw uint16.
//
// Goals: a file that opens is whole (digests, exact tiling, index and span rules, every id below its vocabulary); memory is the document
// index only; reads are preads, so a file cut while in use is an error and never a signal.
// Non-goals: appending, compression, big-endian hosts.
// Opening reads the file once (digest and largest id). Errors: ErrorKind::data naming the file and what was expected; missing, permission.

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
  virtual std::span<const uint64_t> document_starts() const = 0;      // M + 1 entries: first 0, strictly increasing, last num_tokens()
  virtual std::span<const TokenSpan> target_spans() const { return {}; }   // empty: every token after a document's first
  /// Ids first .. first + out.size() - 1; beyond the end is a broken invariant.
  virtual void read(uint64_t first, std::span<int32_t> out) const = 0;
  virtual uint32_t vocab_size() const = 0;                 // 0 when the format does not say
  virtual uint32_t largest_id() const = 0;
  virtual std::optional<Digest> tokenizer_digest() const { return std::nullopt; }
  virtual Digest content_digest() const = 0;               // SHA-256 of the payload (.tokens: bytes from 256 on) or of the whole file
  virtual std::optional<Digest> key() const { return std::nullopt; }          // .tokens: what it was made from
  virtual std::string metadata_json() const { return {}; }
  virtual const std::filesystem::path& path() const = 0;
};

std::unique_ptr<TokenSource> open_token_file(const std::filesystem::path&);                                   // LLTOKEN1
std::unique_ptr<TokenSource> open_llmc(const std::filesystem::path&, std::optional<int64_t> eos);
std::unique_ptr<TokenSource> open_raw_uint16(const std::filesystem::path&,
                                             std::optional<int64_t> eos = {});  // one document, or split at eos

/// True when the file begins with the magic of our own format / with one of llm.c's two headers.
bool looks_like_token_file(std::span<const std::byte> head);
bool looks_like_llmc(std::span<const std::byte> head);

/// Writes TARGET.tmp-<nonce>, fsync, rename, fsync of the folder; without `finish` nothing stays. Memory: 8 bytes a document, 16 a span.
/// Ids outside [0, vocab_size): ErrorKind::data. Spans are [begin, end) of target tokens inside the document, sorted and disjoint.
struct TokenFileWriter {
  TokenFileWriter(std::filesystem::path target, uint32_t vocab_size, Digest tokenizer, Digest key, bool with_spans);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;
  void add_document(std::span<const int32_t> ids, std::span<const TokenSpan> spans_in_document = {});
  /// `metadata_json` at most 1 MiB. Target exists: ErrorKind::busy unless `replace`. No document at all: ErrorKind::data.
  void finish(std::string metadata_json);
  uint64_t num_tokens() const;
  uint64_t num_documents() const;
  bool replace = false;
 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longlora
