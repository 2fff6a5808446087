#include "data/token_text.h"

#include <fmt/format.h>

#include <memory>

#include "data/ordered_parallel.h"
#include "longlora/core/error.h"

namespace longlora {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{1} << 20;     // a piece ends with the record that reaches this

struct Piece {
  std::shared_ptr<const InputFile> file;
  RecordRules rules;
  std::vector<RecordRange> records;
  uint64_t first_document = 0;         // of the file, for messages
  uint64_t bytes = 0;                  // input bytes that are done with this piece
};

struct Encoded {
  std::vector<int32_t> ids;
  std::vector<size_t> ends;            // of the documents in `ids`
  uint64_t empty = 0, bytes = 0;
};

/// Cuts files into pieces at record boundaries.
class PieceScanner {
 public:
  PieceScanner(std::span<const fs::path> files, std::span<const InputFormat> formats, const DocumentRules& rules)
      : files_(files), formats_(formats), rules_(rules) {}

  std::optional<Piece> next() {
    while (true) {
      if (!scanner_ && !open_next()) return std::nullopt;
      Piece piece{.file = file_, .rules = record_rules_, .first_document = documents_};
      uint64_t text_bytes = 0;
      RecordRange range;
      bool more = true;
      while (text_bytes < kPieceBytes && (more = scanner_->next(range))) {
        text_bytes += range.end - range.begin;
        piece.records.push_back(range);
      }
      documents_ += piece.records.size();
      const uint64_t reached = more ? range.end : file_->size();
      piece.bytes = reached - reported_;
      reported_ = reached;
      if (!more) close();
      if (!piece.records.empty() || piece.bytes > 0) return piece;
    }
  }
  uint64_t empty() const { return empty_; }

 private:
  bool open_next() {
    if (index_ == files_.size()) return false;
    file_ = std::make_shared<const InputFile>(files_[index_]);
    record_rules_ = record_rules_for(rules_, formats_[index_]);
    scanner_ = std::make_unique<RecordScanner>(*file_, record_rules_);
    ++index_;
    documents_ = reported_ = 0;
    return true;
  }
  void close() {
    file_->check_unchanged();
    empty_ += scanner_->empty();
    scanner_.reset();
  }

  std::span<const fs::path> files_;
  std::span<const InputFormat> formats_;
  const DocumentRules& rules_;
  size_t index_ = 0;
  std::shared_ptr<const InputFile> file_;
  RecordRules record_rules_;
  std::unique_ptr<RecordScanner> scanner_;
  uint64_t documents_ = 0, reported_ = 0, empty_ = 0;
};

void append_document(std::string_view text, const std::string& place, const TokenizeOptions& options, const DocumentRules& rules,
                     Encoded& out) {
  const std::vector<int32_t> ids = options.tokenizer->encode(text, rules.encode);
  for (size_t i = 0; i < ids.size(); ++i)
    LONGLORA_CHECK(ids[i] >= 0 && ids[i] < rules.vocab_size, data,
                   fmt::format("token id {} is outside the tokenizer's vocabulary of {}", ids[i], rules.vocab_size),
                   fmt::format("{}, position {}", place, i + rules.bos.has_value()),
                   "the tokenizer files of the model do not fit together");
  if (rules.bos) out.ids.push_back(*rules.bos);
  out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  out.ids.push_back(rules.eos);
  out.ends.push_back(out.ids.size());
}

Encoded encode_piece(const Piece& piece, const TokenizeOptions& options, const DocumentRules& rules) {
  Encoded out{.bytes = piece.bytes};
  for (size_t i = 0; i < piece.records.size(); ++i) {
    const std::string text = read_record(*piece.file, piece.records[i], piece.rules);
    if (text.empty()) {
      ++out.empty;
      continue;
    }
    append_document(text, fmt::format("{}: document {}", piece.file->path().string(), piece.first_document + i), options, rules, out);
  }
  return out;
}

RecordKind split_kind(const TokenizeOptions& options) {
  if (options.split == "file") return RecordKind::whole_file;
  if (options.split == "blank_line") return RecordKind::blank_line;
  LONGLORA_CHECK(options.split == "separator", config, fmt::format("split '{}' is unknown", escape(options.split, 40)), "split",
                 "use file, blank_line or separator");
  LONGLORA_CHECK(!options.separator.empty() && options.separator.find('\n') == std::string::npos, config,
                 "split: separator needs `separator`, one line of text", "separator",
                 "give the literal line that stands between documents");
  return RecordKind::separator;
}

}  // namespace

DocumentRules document_rules(const TokenizeOptions& options) {
  const Tokenizer* tokenizer = options.tokenizer;
  LONGLORA_CHECK(tokenizer, config, "text needs a tokenizer, and the model folder has none", "model.path",
                 "add tokenizer.json or tokenizer.model, or give token files");
  LONGLORA_CHECK(options.template_name == "none", config,
                 fmt::format("template '{}' is not in this version", escape(options.template_name, 40)), "data.template",
                 "use none (documents)");
  LONGLORA_CHECK(options.eos || tokenizer->eos(), config, "neither the tokenizer nor config.json names an end-of-text token", "data.eos",
                 "set data.eos to the id that ends a document");
  DocumentRules rules;
  rules.records = {
      .kind = split_kind(options), .separator = options.separator, .field = options.field, .max_record_bytes = options.max_record_bytes};
  rules.encode.parse_special = options.parse_special;
  rules.vocab_size = tokenizer->vocab_size();
  const int64_t eos = options.eos ? *options.eos : *tokenizer->eos();
  LONGLORA_CHECK(eos >= 0 && eos < rules.vocab_size, config,
                 fmt::format("end-of-text id {} is outside the vocabulary of {}", eos, rules.vocab_size), "data.eos",
                 "set data.eos to an id of the tokenizer");
  rules.eos = static_cast<int32_t>(eos);
  if (tokenizer->adds_bos()) {
    LONGLORA_CHECK(tokenizer->bos(), data, "the tokenizer wants a BOS token but names none", "tokenizer_config.json",
                   "add bos_token to it");
    rules.bos = tokenizer->bos();
  }
  return rules;
}

RecordRules record_rules_for(const DocumentRules& rules, InputFormat format) {
  RecordRules result = rules.records;
  if (format == InputFormat::jsonl) result.kind = RecordKind::json_line;
  return result;
}

DocumentStats encode_files(std::span<const fs::path> files, std::span<const InputFormat> formats, const TokenizeOptions& options,
                           const std::function<void(std::span<const int32_t>)>& add, const std::function<void(uint64_t)>& done) {
  const DocumentRules rules = document_rules(options);
  PieceScanner scanner(files, formats, rules);
  DocumentStats stats;
  ordered_parallel<Piece>(
      options.threads, [&] { return scanner.next(); }, [&](const Piece& piece) { return encode_piece(piece, options, rules); },
      [&](Encoded encoded) {
        size_t begin = 0;
        for (const size_t end : encoded.ends) {
          add(std::span(encoded.ids).subspan(begin, end - begin));
          begin = end;
        }
        stats.empty += encoded.empty;
        done(encoded.bytes);
      });
  stats.empty += scanner.empty();
  return stats;
}

}  // namespace longlora
