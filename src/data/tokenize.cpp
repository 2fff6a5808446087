#include "longlora/data/tokenize.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/folder_lock.h"
#include "data/token_text.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/formats/token_file.h"

namespace longlora {
namespace {

constexpr uint64_t kPartBytes = uint64_t{16} << 20;    // inputs whose loss an interrupted call may cost
constexpr size_t kMaxListedSources = 2000;             // keeps the metadata below its limit

void update_text(Sha256& hash, std::string_view text) { hash.update_value(uint64_t{text.size()}).update(text); }

/// Inputs [begin, end) that form one part.
struct Group { size_t begin, end; };

std::vector<Group> groups_of(const std::vector<SourceIdentity>& identities) {
  std::vector<Group> groups;
  uint64_t bytes = 0;
  for (size_t i = 0; i < identities.size(); ++i) {
    if (i == 0 || bytes >= kPartBytes) {
      groups.push_back({i, i});
      bytes = 0;
    }
    groups.back().end = i + 1;
    bytes += identities[i].bytes;
  }
  return groups;
}

/// What one call works on; keeps counts for the metadata and the progress.
class Job {
 public:
  Job(const std::vector<fs::path>& inputs, const fs::path& output, const TokenizeOptions& options, std::vector<SourceIdentity> identities)
      : inputs_(inputs), output_(output), options_(options), identities_(std::move(identities)) {
    document_rules(options_);                          // configuration first, before any file is read
    for (const fs::path& input : inputs_) {
      formats_.push_back(input_format(input, options_.format));
      LONGLORA_CHECK(is_text(formats_.back()), data, fmt::format("holds token ids already ({})", name_of(formats_.back())), input.string(),
                     "give it to `data.train` as it is");
    }
    if (identities_.empty())
      for (const fs::path& input : inputs_) identities_.push_back(identify(input));
    LONGLORA_INVARIANT(!inputs_.empty() && identities_.size() == inputs_.size());
    for (const SourceIdentity& identity : identities_) progress_.bytes_total += identity.bytes;
    key_ = tokenize_key(identities_, options_);
  }

  TokenizeResult run() {
    if (keep_existing()) return result_;
    const std::vector<Group> groups = groups_of(identities_);
    TokenFileWriter writer = new_writer(output_, key_);
    writer.replace = options_.force;
    for (const Group group : groups) {
      if (groups.size() == 1) {
        encode(group, writer);
      } else {
        if (const auto source = part(group)) copy(*source, writer);
      }
    }
    writer.finish(metadata(writer));
    std::error_code ignored;
    fs::remove_all(parts_folder(), ignored);
    result_.path = output_;
    result_.documents = writer.num_documents();
    result_.tokens = writer.num_tokens();
    return result_;
  }

 private:
  fs::path parts_folder() const { return output_.string() + ".parts"; }

  TokenFileWriter new_writer(const fs::path& target, const Digest& key) const {
    return TokenFileWriter(target, static_cast<uint32_t>(options_.tokenizer->vocab_size()), options_.tokenizer->digest(), key, false);
  }

  bool keep_existing() {
    std::error_code error;
    if (!fs::exists(output_, error)) return false;
    if (const auto existing = open_if_made_from(output_, key_)) {
      result_.path = output_;
      result_.documents = existing->document_starts().size() - 1;
      result_.tokens = existing->num_tokens();
      result_.empty = empty_of(*existing);
      return result_.up_to_date = true;
    }
    LONGLORA_CHECK(options_.force, busy, "the output exists and was made from other inputs or rules", output_.string(),
                   "choose another --output, or replace it with --force");
    return false;
  }

  /// The file when it is whole and was made from `key`; nullptr otherwise.
  static std::unique_ptr<TokenSource> open_if_made_from(const fs::path& path, const Digest& key) {
    std::error_code error;
    if (!fs::exists(path, error)) return nullptr;
    try {
      auto source = open_token_file(path);
      if (source->key() == key) return source;
    } catch (const Error& damaged) {
      if (damaged.kind != ErrorKind::data) throw;
    }
    return nullptr;
  }

  static uint64_t empty_of(const TokenSource& source) {
    const JsonValue metadata = parse_json(source.metadata_json(), source.path().string(), {});
    const JsonValue* counts = metadata.find("counts");
    const JsonValue* empty = counts ? counts->find("empty") : nullptr;
    return empty ? empty->unsigned_integer().value_or(0) : 0;
  }

  void encode(Group group, TokenFileWriter& writer) {
    const auto files = std::span(inputs_).subspan(group.begin, group.end - group.begin);
    const auto formats = std::span(formats_).subspan(group.begin, group.end - group.begin);
    const DocumentStats stats = encode_files(
        files, formats, options_, [&](std::span<const int32_t> ids) { add(ids, writer); }, [&](uint64_t bytes) { report(bytes); });
    result_.empty += stats.empty;
    group_empty_ = stats.empty;
  }

  void add(std::span<const int32_t> ids, TokenFileWriter& writer) {
    writer.add_document(ids);
    longest_document_ = std::max<uint64_t>(longest_document_, ids.size());
    ++progress_.documents;
    progress_.tokens += ids.size();
  }

  void report(uint64_t bytes) {
    progress_.bytes_done += bytes;
    if (options_.progress) options_.progress(progress_);
  }

  /// The finished token file of a group: kept by an interrupted call, or made now; nullptr when no record has text.
  std::unique_ptr<TokenSource> part(Group group) {
    const std::vector<SourceIdentity> sources(identities_.begin() + group.begin, identities_.begin() + group.end);
    const Digest key = tokenize_key(sources, options_);
    const fs::path path = parts_folder() / to_hex(key);
    if (auto kept = open_if_made_from(path, key)) {
      ++result_.reused_parts;
      result_.empty += empty_of(*kept);
      progress_.documents += kept->document_starts().size() - 1;
      progress_.tokens += kept->num_tokens();
      uint64_t bytes = 0;
      for (const SourceIdentity& source : sources) bytes += source.bytes;
      report(bytes);
      return kept;
    }
    create_folders(parts_folder());
    TokenFileWriter writer = new_writer(path, key);
    writer.replace = true;
    encode(group, writer);
    if (writer.num_documents() == 0) return nullptr;
    writer.finish(fmt::format("{{\"counts\":{{\"empty\":{}}}}}", group_empty_));
    return open_token_file(path);
  }

  void copy(const TokenSource& source, TokenFileWriter& writer) {
    std::vector<int32_t> ids;
    const auto starts = source.document_starts();
    for (size_t d = 0; d + 1 < starts.size(); ++d) {
      ids.resize(starts[d + 1] - starts[d]);
      source.read(starts[d], ids);
      writer.add_document(ids);
      longest_document_ = std::max<uint64_t>(longest_document_, ids.size());
    }
  }

  std::string metadata(const TokenFileWriter& writer) const {
    std::string sources;
    for (size_t i = 0; i < std::min(identities_.size(), kMaxListedSources); ++i) {
      const SourceIdentity& s = identities_[i];
      const std::string name = fs::path(s.path).filename().string().substr(0, 200);
      sources += fmt::format("{}{{\"file\":{},\"bytes\":{},\"sha256\":\"{}\"}}", i ? "," : "", json_quote(name), s.bytes, to_hex(s.digest));
    }
    return fmt::format(
        "{{\"program\":\"longlora-train\",\"version\":{},\"num_sources\":{},\"sources\":[{}],\"template\":{},\"options\":{{\"field\":{},"
        "\"split\":{},\"separator\":{},\"parse_special_tokens\":{}}},\"counts\":{{\"documents\":{},\"tokens\":{},\"targets\":{},\"empty\":{"
        "},"
        "\"truncated\":0,\"skipped\":0,\"removed\":0}},\"longest_document\":{}}}",
        json_quote(options_.program_version), identities_.size(), sources, json_quote(options_.template_name), json_quote(options_.field),
        json_quote(options_.split), json_quote(options_.separator), options_.parse_special, writer.num_documents(), writer.num_tokens(),
        writer.num_tokens() - writer.num_documents(), result_.empty, longest_document_);
  }

  const std::vector<fs::path>& inputs_;
  const fs::path& output_;
  const TokenizeOptions& options_;
  std::vector<SourceIdentity> identities_;
  std::vector<InputFormat> formats_;
  Digest key_{};
  TokenizeProgress progress_;
  TokenizeResult result_;
  uint64_t longest_document_ = 0, group_empty_ = 0;
};

}  // namespace

Digest tokenize_key(const std::vector<SourceIdentity>& identities, const TokenizeOptions& options) {
  const DocumentRules rules = document_rules(options);
  Sha256 hash;
  update_text(hash, "longlora-tokens-1");
  hash.update(std::as_bytes(std::span(options.tokenizer->digest())));
  hash.update_value(int64_t{rules.eos}).update_value(int64_t{rules.bos.value_or(-1)}).update_value(uint8_t{options.parse_special});
  for (const std::string& text : {options.field, options.split, options.separator, options.template_name}) update_text(hash, text);
  hash.update_value(uint64_t{identities.size()});
  for (const SourceIdentity& identity : identities) {
    update_text(hash, name_of(input_format(identity.path, options.format)));       // `auto` may decide by the file's name
    hash.update_value(identity.bytes).update(std::as_bytes(std::span(identity.digest)));
  }
  return hash.finish();
}

TokenizeResult tokenize_files(const std::vector<fs::path>& inputs, const fs::path& output, const TokenizeOptions& options,
                              std::vector<SourceIdentity> identities) {
  Job job(inputs, output, options, std::move(identities));
  create_folders(output.has_parent_path() ? output.parent_path() : fs::path("."));
  const FileLock lock(output.string() + ".lock");      // a second process waits here and then finds the output up to date
  remove_leftovers(output);
  return job.run();
}

}  // namespace longlora
