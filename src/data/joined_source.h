#pragma once
// The files of one data entry as one stream of documents.
#include <memory>

#include "longlora/formats/token_file.h"

namespace longlora {

class JoinedSource : public TokenSource {
 public:
  struct Part {
    std::unique_ptr<TokenSource> tokens;
    std::string label;                 // for messages: the file, or the text it was made from
  };
  /// At least one part. Spans are taken over; if some parts have them, the others get all their targets as spans.
  explicit JoinedSource(std::vector<Part> parts);

  uint64_t num_tokens() const override { return first_token_.back(); }
  std::span<const uint64_t> document_starts() const override { return starts_; }
  std::span<const TokenSpan> target_spans() const override { return spans_; }
  void read(uint64_t first, std::span<int32_t> out) const override;
  uint32_t vocab_size() const override;                       // largest of the parts
  uint32_t largest_id() const override;
  std::optional<Digest> tokenizer_digest() const override { return parts_.front().tokens->tokenizer_digest(); }
  Digest content_digest() const override;                     // of one part: its own; else SHA-256 over the parts' digests
  const std::filesystem::path& path() const override { return parts_.front().tokens->path(); }

  /// "FILE: document D, position P" of a token.
  std::string place_of(uint64_t token) const;
  std::span<const Part> parts() const { return parts_; }

 private:
  size_t part_of(uint64_t token) const;
  std::vector<Part> parts_;
  std::vector<uint64_t> first_token_;  // prefix sums
  std::vector<uint64_t> starts_;
  std::vector<TokenSpan> spans_;
};

}  // namespace longlora
