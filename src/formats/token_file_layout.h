#pragma once
// Bytes of a `.tokens` file: the header and where the sections must stand.
#include <cstdint>
#include <string>

#include "longlora/core/dtype.h"
#include "longlora/core/hash.h"

namespace longlora {

inline constexpr char kTokenFileMagic[8] = {'L', 'L', 'T', 'O', 'K', 'E', 'N', '1'};
inline constexpr uint64_t kTokenFileAlignment = 64;
inline constexpr uint64_t kMaxMetadataBytes = uint64_t{1} << 20;
inline constexpr uint32_t kHasSpans = 1;
inline constexpr uint32_t kMaxTokenVocabulary = 0x7fffffffu;   // ids travel as int32

struct TokenFileHeader {
  char magic[8];
  uint32_t version, header_bytes, token_bytes, flags;
  uint64_t tokens, documents, spans;
  uint64_t tokens_offset, index_offset, spans_offset, metadata_offset, metadata_bytes;
  uint32_t vocab_size, largest_id;
  Digest tokenizer, payload, key, zero, header_digest;
};
static_assert(sizeof(TokenFileHeader) == 256 && offsetof(TokenFileHeader, tokens) == 24 && offsetof(TokenFileHeader, vocab_size) == 88 &&
              offsetof(TokenFileHeader, tokenizer) == 96 && offsetof(TokenFileHeader, header_digest) == 224);

/// Offsets that follow from the counts: sections in order, each at the next multiple of 64, the file ends with the metadata.
struct TokenFileSections {
  uint64_t tokens, tokens_end, index, index_end, spans, spans_end, metadata, file_bytes;   // spans = spans_end = index_end when absent
};

inline uint64_t aligned(uint64_t offset) {
  return checked_add(offset, kTokenFileAlignment - 1, "size of a token file") / kTokenFileAlignment * kTokenFileAlignment;
}

inline TokenFileSections sections_of(const TokenFileHeader& h) {
  TokenFileSections s{};
  s.tokens = sizeof(TokenFileHeader);
  s.tokens_end = checked_add(s.tokens, checked_mul(h.tokens, h.token_bytes, "tokens of a token file"), "tokens of a token file");
  s.index = aligned(s.tokens_end);
  s.index_end = checked_add(s.index, checked_mul(checked_add(h.documents, 1, "documents"), 8, "documents"), "documents");
  s.spans = s.spans_end = s.index_end;
  if (h.flags & kHasSpans) {
    s.spans = aligned(s.index_end);
    s.spans_end = checked_add(s.spans, checked_mul(h.spans, 16, "spans"), "spans");
  }
  s.metadata = aligned(s.spans_end);
  s.file_bytes = checked_add(s.metadata, h.metadata_bytes, "metadata");
  return s;
}

inline Digest header_digest_of(const TokenFileHeader& h) {
  return sha256(std::as_bytes(std::span(&h, 1)).first(offsetof(TokenFileHeader, header_digest)));
}

}  // namespace longlora
