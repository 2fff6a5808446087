#include "data/open_source.h"

#include <fmt/format.h>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"
#include "longlora/core/text.h"
#include "longlora/data/tokenize.h"

namespace longlora {
namespace {

TokenizeOptions tokenize_options(const DataEntry& entry, const DatasetOptions& options) {
  TokenizeOptions result{.tokenizer = options.tokenizer,
                         .eos = options.eos,
                         .format = entry.format,
                         .field = entry.field,
                         .split = entry.split,
                         .separator = entry.separator,
                         .template_name = options.data.template_name,
                         .max_record_bytes = static_cast<uint64_t>(options.data.max_record_bytes),
                         .parse_special = options.data.parse_special_tokens,
                         .threads = options.tokenize_threads,
                         .force = true};  // the name is the key: a file that does not fit it is damaged
  result.progress = [last = monotonic_seconds()](const TokenizeProgress& p) mutable {
    constexpr double kSecondsBetweenLines = 10;
    if (monotonic_seconds() - last < kSecondsBetweenLines) return;
    last = monotonic_seconds();
    log_info("tokenising: {} of {}, {} tokens", human_bytes(p.bytes_done), human_bytes(p.bytes_total), human_count(p.tokens));
  };
  return result;
}

/// Consecutive text files of an entry become one token file of the cache, named by what it was made from.
JoinedSource::Part tokenise(const std::vector<fs::path>& files, const DataEntry& entry, const DatasetOptions& options,
                            const fs::path& cache, OpenedSource& opened) {
  std::vector<SourceIdentity> identities;
  for (const fs::path& file : files) identities.push_back(identify(file));
  const TokenizeOptions rules = tokenize_options(entry, options);
  const fs::path target = cache / (to_hex(tokenize_key(identities, rules)) + ".tokens");
  const TokenizeResult result = tokenize_files(files, target, rules, identities);
  opened.empty_records += result.empty;
  (result.up_to_date ? opened.from_cache : opened.tokenised_now) = true;
  opened.identities.insert(opened.identities.end(), identities.begin(), identities.end());
  return {open_token_file(target), files.size() == 1 ? files.front().string() : fmt::format("{} ({} files)", entry.path, files.size())};
}

void check_tokenizer(const TokenSource& tokens, const DatasetOptions& options) {
  if (options.tokenizer) {
    LONGLORA_CHECK(tokens.tokenizer_digest() == options.tokenizer->digest(), config,
                   fmt::format("made with tokenizer {}, the model has {}", to_hex(*tokens.tokenizer_digest()).substr(0, 12),
                               to_hex(options.tokenizer->digest()).substr(0, 12)),
                   tokens.path().string(), "tokenise the text again with this model's tokenizer (`longlora-train tokenize`)");
    return;
  }
  LONGLORA_CHECK(tokens.vocab_size() <= options.vocab_size, config,
                 fmt::format("made for a vocabulary of {}, the model has {}", tokens.vocab_size(), options.vocab_size),
                 tokens.path().string(), "tokenise the text again with this model's tokenizer");
  log_notice("{}: the model folder has no tokenizer; only vocabulary sizes were compared ({} in the file, {} in the model)",
             tokens.path().string(), tokens.vocab_size(), options.vocab_size);
}

std::unique_ptr<TokenSource> open_tokens(const fs::path& file, InputFormat format, const DatasetOptions& options) {
  constexpr int64_t kUint16Ids = 65536;
  if (format == InputFormat::llmc) return open_llmc(file, options.eos);
  if (format == InputFormat::raw_uint16) {
    LONGLORA_CHECK(options.vocab_size <= kUint16Ids, data, fmt::format("uint16 cannot hold this vocabulary of {}", options.vocab_size),
                   file.string(), "use a token file (`longlora-train tokenize`)");
    return open_raw_uint16(file);                 // one stream
  }
  auto tokens = open_token_file(file);
  check_tokenizer(*tokens, options);
  return tokens;
}

/// The slow look for a culprit, only when the largest id says that there is one.
void check_ids(const JoinedSource& tokens, int64_t vocab_size) {
  if (tokens.largest_id() < vocab_size) return;
  std::vector<int32_t> ids(size_t{1} << 18);
  for (uint64_t at = 0; at < tokens.num_tokens(); at += ids.size()) {
    const auto block = std::span(ids).first(std::min<uint64_t>(ids.size(), tokens.num_tokens() - at));
    tokens.read(at, block);
    for (size_t i = 0; i < block.size(); ++i)
      LONGLORA_CHECK(block[i] < vocab_size, data, fmt::format("token id {} is outside the model's vocabulary of {}", block[i], vocab_size),
                     tokens.place_of(at + i), "use data that was tokenised with this model's tokenizer");
  }
}

void note_format(std::string& formats, InputFormat format) {
  const std::string name(name_of(format));
  if (("+" + formats + "+").find("+" + name + "+") == std::string::npos) formats += (formats.empty() ? "" : "+") + name;
}

}  // namespace

OpenedSource open_source(const DataEntry& entry, const DatasetOptions& options, const fs::path& cache_folder) {
  OpenedSource opened;
  std::vector<JoinedSource::Part> parts;
  std::vector<fs::path> pending_text;
  Sha256 content;
  const auto flush_text = [&] {
    if (pending_text.empty()) return;
    parts.push_back(tokenise(pending_text, entry, options, cache_folder, opened));
    content.update_value(parts.back().tokens->key().value());
    pending_text.clear();
  };
  for (const fs::path& file : list_inputs(entry.path)) {
    const InputFormat format = input_format(file, entry.format);
    note_format(opened.formats, format);
    if (is_text(format)) {
      pending_text.push_back(file);
      continue;
    }
    flush_text();
    parts.push_back({open_tokens(file, format, options), file.string()});
    const Digest digest = parts.back().tokens->content_digest();
    content.update_value(digest);
    opened.identities.push_back({.path = file.string(), .bytes = InputFile(file).size(), .digest = digest});
  }
  flush_text();
  opened.content = content.finish();
  opened.tokens = std::make_unique<JoinedSource>(std::move(parts));
  check_ids(*opened.tokens, options.vocab_size);
  return opened;
}

}  // namespace longlora
