// Reader of `.tokens`: everything a later read relies on is checked here, before the first id is used.
#include "longlora/formats/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/token_file_flat.h"
#include "formats/token_file_layout.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

class TokenFile : public TokenSource {
 public:
  explicit TokenFile(const std::filesystem::path& path);
  uint64_t num_tokens() const override { return header_.tokens; }
  std::span<const uint64_t> document_starts() const override { return starts_; }
  std::span<const TokenSpan> target_spans() const override { return spans_; }
  void read(uint64_t first, std::span<int32_t> out) const override { read_flat_ids(file_, layout_, first, out); }
  uint32_t vocab_size() const override { return header_.vocab_size; }
  uint32_t largest_id() const override { return header_.largest_id; }
  std::optional<Digest> tokenizer_digest() const override { return header_.tokenizer; }
  Digest content_digest() const override { return header_.payload; }
  std::optional<Digest> key() const override { return header_.key; }
  std::string metadata_json() const override { return metadata_; }
  const std::filesystem::path& path() const override { return file_.path(); }

 private:
  void require(bool condition, const std::string& what) const {
    if (!condition) [[unlikely]]
      fail(ErrorKind::data, what, file_.path().string(), "the file is damaged; make it again with `longlora-train tokenize`");
  }
  void check_header() const;
  void read_sections();
  void check_padding(uint64_t begin, uint64_t end) const;
  void check_index() const;
  void check_spans() const;
  void check_payload() const;

  InputFile file_;
  TokenFileHeader header_{};
  TokenFileSections sections_{};
  FlatTokens layout_;
  std::vector<uint64_t> starts_;
  std::vector<TokenSpan> spans_;
  std::string metadata_;
};

TokenFile::TokenFile(const std::filesystem::path& path) : file_(path) {
  require(file_.size() >= sizeof(header_), fmt::format("{} bytes are less than the 256-byte header of a token file", file_.size()));
  file_.read(0, std::as_writable_bytes(std::span(&header_, 1)));
  check_header();
  sections_ = sections_of(header_);
  require(sections_.file_bytes == file_.size(),
          fmt::format("the header's sections end at byte {}, the file at {}", sections_.file_bytes, file_.size()));
  layout_ = {.offset = sections_.tokens, .count = header_.tokens, .id_bytes = header_.token_bytes};
  read_sections();
  check_index();
  check_spans();
  check_payload();
  parse_json(metadata_, path.string() + ": metadata", {.max_bytes = kMaxMetadataBytes});
}

void TokenFile::check_header() const {
  const TokenFileHeader& h = header_;
  require(std::memcmp(h.magic, kTokenFileMagic, sizeof(h.magic)) == 0, "no token file: it does not begin with LLTOKEN1");
  require(h.header_digest == header_digest_of(h), "the header does not match its own SHA-256");
  require(h.version == 1 && h.header_bytes == sizeof(h),
          fmt::format("token file version {} with {} header bytes, expected 1 with 256", h.version, h.header_bytes));
  require(h.vocab_size > 0 && h.vocab_size <= kMaxTokenVocabulary, fmt::format("vocabulary of {} ids", h.vocab_size));
  require(h.token_bytes == (h.vocab_size <= 65536 ? 2u : 4u),
          fmt::format("{} bytes a token for a vocabulary of {}", h.token_bytes, h.vocab_size));
  require(h.flags <= kHasSpans, fmt::format("unknown flags {:#x}", h.flags));
  require(h.largest_id < h.vocab_size, fmt::format("largest id {} is outside the vocabulary of {}", h.largest_id, h.vocab_size));
  require(h.metadata_bytes <= kMaxMetadataBytes, fmt::format("{} bytes of metadata, at most 1 MiB is allowed", h.metadata_bytes));
  require(h.tokens > 0 && h.documents > 0 && h.documents <= h.tokens, fmt::format("{} documents in {} tokens", h.documents, h.tokens));
  require((h.flags & kHasSpans) || h.spans == 0, fmt::format("{} spans without a span section", h.spans));
  require(h.zero == Digest{}, "reserved header bytes are not zero");
  const TokenFileSections s = sections_of(h);
  const uint64_t spans_offset = h.flags & kHasSpans ? s.spans : 0;
  require(h.tokens_offset == s.tokens && h.index_offset == s.index && h.spans_offset == spans_offset && h.metadata_offset == s.metadata,
          "section offsets do not tile the file");
}

void TokenFile::read_sections() {
  starts_.resize(header_.documents + 1);        // the file is at least this long: checked by the tiling
  file_.read(sections_.index, std::as_writable_bytes(std::span(starts_)));
  spans_.resize(header_.spans);
  file_.read(sections_.spans, std::as_writable_bytes(std::span(spans_)));
  metadata_ = file_.read_text(sections_.metadata, header_.metadata_bytes);
  check_padding(sections_.tokens_end, sections_.index);
  if (header_.flags & kHasSpans) check_padding(sections_.index_end, sections_.spans);
  check_padding(sections_.spans_end, sections_.metadata);
}

void TokenFile::check_padding(uint64_t begin, uint64_t end) const {
  const std::string padding = file_.read_text(begin, end - begin);
  require(padding.find_first_not_of('\0') == std::string::npos, fmt::format("padding at byte {} is not zero", begin));
}

void TokenFile::check_index() const {
  require(starts_.front() == 0 && starts_.back() == header_.tokens, "the document index does not run from 0 to the number of tokens");
  const auto bad = std::adjacent_find(starts_.begin(), starts_.end(), std::greater_equal<>());
  require(bad == starts_.end(), fmt::format("document {} of the index is empty or runs backwards", bad - starts_.begin()));
}

void TokenFile::check_spans() const {
  uint64_t previous_end = 0;
  for (size_t i = 0; i < spans_.size(); ++i) {
    const TokenSpan s = spans_[i];
    require(s.begin < s.end && s.begin >= previous_end && s.end <= header_.tokens,
            fmt::format("span {} is empty, unsorted or overlaps", i));
    const uint64_t document_end = *std::upper_bound(starts_.begin(), starts_.end(), s.begin);
    require(s.end <= document_end, fmt::format("span {} crosses a document", i));
    previous_end = s.end;
  }
}

void TokenFile::check_payload() const {
  const FlatScan scan = scan_flat_tokens(file_, layout_, sizeof(header_), std::nullopt);
  require(scan.digest == header_.payload, "the content does not match its SHA-256");
  require(scan.largest_id == header_.largest_id,
          fmt::format("largest id is {} at token {}, the header says {}", scan.largest_id, scan.largest_at, header_.largest_id));
}

}  // namespace

bool looks_like_token_file(std::span<const std::byte> head) {
  return head.size() >= sizeof(kTokenFileMagic) && std::memcmp(head.data(), kTokenFileMagic, sizeof(kTokenFileMagic)) == 0;
}

std::unique_ptr<TokenSource> open_token_file(const std::filesystem::path& path) { return std::make_unique<TokenFile>(path); }

}  // namespace longlora
