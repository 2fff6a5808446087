// Writer of `.tokens`: ids stream to a temporary file and into the payload digest; index, spans, metadata and header follow at the end.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/token_file_layout.h"
#include "longlora/core/error.h"
#include "longlora/formats/token_file.h"

namespace longlora {

struct TokenFileWriter::State {
  fs::path target, temporary;
  OutputFile file;
  TokenFileHeader header{};
  std::vector<uint64_t> starts{0};
  std::vector<TokenSpan> spans;
  Sha256 payload;
  std::vector<std::byte> buffer;
  uint64_t written = sizeof(TokenFileHeader);      // bytes on file, buffer excluded
  bool finished = false;

  void put(std::span<const std::byte> bytes) {
    payload.update(bytes);
    file.write_all(bytes);
    written += bytes.size();
  }
  void pad_to(uint64_t offset) {
    const std::vector<std::byte> zeros(offset - written);
    put(zeros);
  }
  void flush() {
    put(buffer);
    buffer.clear();
  }
  template <class T> void append_ids(std::span<const int32_t> ids) {
    const size_t old = buffer.size();
    buffer.resize(old + ids.size() * sizeof(T));
    for (size_t i = 0; i < ids.size(); ++i) {
      const T value = static_cast<T>(ids[i]);
      std::memcpy(buffer.data() + old + i * sizeof(T), &value, sizeof(T));
    }
  }
};

TokenFileWriter::TokenFileWriter(std::filesystem::path target, uint32_t vocab_size, Digest tokenizer, Digest key, bool with_spans) {
  LONGLORA_INVARIANT(vocab_size > 0 && vocab_size <= kMaxTokenVocabulary);
  const fs::path temporary = target.string() + ".tmp-" + process_nonce();
  state_ = std::make_unique<State>(State{.target = std::move(target), .temporary = temporary, .file = OutputFile::create(temporary)});
  TokenFileHeader& h = state_->header;
  std::memcpy(h.magic, kTokenFileMagic, sizeof(h.magic));
  h.version = 1;
  h.header_bytes = sizeof(h);
  h.token_bytes = vocab_size <= 65536 ? 2 : 4;
  h.flags = with_spans ? kHasSpans : 0;
  h.vocab_size = vocab_size;
  h.tokenizer = tokenizer;
  h.key = key;
  const TokenFileHeader empty{};
  state_->file.write_all(std::as_bytes(std::span(&empty, 1)));      // its place; written last, when everything is known
}

TokenFileWriter::~TokenFileWriter() {
  if (state_->finished) return;
  std::error_code ignored;
  fs::remove(state_->temporary, ignored);
}

uint64_t TokenFileWriter::num_tokens() const { return state_->header.tokens; }
uint64_t TokenFileWriter::num_documents() const { return state_->header.documents; }

void TokenFileWriter::add_document(std::span<const int32_t> ids, std::span<const TokenSpan> spans_in_document) {
  State& s = *state_;
  LONGLORA_INVARIANT(!ids.empty() && !s.finished);
  LONGLORA_INVARIANT(spans_in_document.empty() || (s.header.flags & kHasSpans));
  for (size_t i = 0; i < ids.size(); ++i) {
    LONGLORA_CHECK(ids[i] >= 0 && static_cast<uint32_t>(ids[i]) < s.header.vocab_size, data,
                   fmt::format("token id {} is outside the vocabulary of {}", ids[i], s.header.vocab_size),
                   fmt::format("{}: document {}, position {}", s.target.string(), s.header.documents, i), "use the tokenizer of the model");
    s.header.largest_id = std::max(s.header.largest_id, static_cast<uint32_t>(ids[i]));
  }
  uint64_t previous_end = 0;
  for (const TokenSpan span : spans_in_document) {
    LONGLORA_INVARIANT(span.begin < span.end && span.begin >= previous_end && span.end <= ids.size());
    s.spans.push_back({s.header.tokens + span.begin, s.header.tokens + span.end});
    previous_end = span.end;
  }
  s.header.token_bytes == 2 ? s.append_ids<uint16_t>(ids) : s.append_ids<uint32_t>(ids);
  s.header.tokens += ids.size();
  ++s.header.documents;
  s.starts.push_back(s.header.tokens);
  constexpr size_t kFlushBytes = size_t{1} << 20;
  if (s.buffer.size() >= kFlushBytes) s.flush();
}

void TokenFileWriter::finish(std::string metadata_json) {
  State& s = *state_;
  TokenFileHeader& h = s.header;
  LONGLORA_INVARIANT(!s.finished && metadata_json.size() <= kMaxMetadataBytes);
  LONGLORA_CHECK(h.documents > 0, data, "no document to write", s.target.string(), "give input files that hold text");
  s.flush();
  h.spans = s.spans.size();
  h.metadata_bytes = metadata_json.size();
  const TokenFileSections sections = sections_of(h);
  s.pad_to(sections.index);
  s.put(std::as_bytes(std::span(s.starts)));
  if (h.flags & kHasSpans) {
    s.pad_to(sections.spans);
    s.put(std::as_bytes(std::span(s.spans)));
  }
  s.pad_to(sections.metadata);
  s.put(std::as_bytes(std::span(metadata_json.data(), metadata_json.size())));
  h.tokens_offset = sections.tokens;
  h.index_offset = sections.index;
  h.spans_offset = h.flags & kHasSpans ? sections.spans : 0;
  h.metadata_offset = sections.metadata;
  h.payload = s.payload.finish();
  h.header_digest = header_digest_of(h);
  s.file.write_at(0, std::as_bytes(std::span(&h, 1)));
  s.file.sync();
  s.file.close();
  if (replace) {
    std::error_code error;
    fs::rename(s.temporary, s.target, error);
    if (error) fail_errno(error.value(), "rename", s.target.string());
  } else {
    rename_noreplace(s.temporary, s.target);
  }
  s.finished = true;
  sync_folder(s.target.has_parent_path() ? s.target.parent_path() : fs::path("."));
}

}  // namespace longlora
