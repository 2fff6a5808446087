#include "longlora/data/dataset.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "data/concat_rows.h"
#include "data/open_source.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

/// A folder for tokenised text that is gone with its owner.
class TemporaryFolder {
 public:
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& create() {
    static std::atomic<int> count{0};
    path_ = fs::temp_directory_path() / fmt::format("longlora-{}-{}", process_nonce(), count++);
    create_folders(path_);
    return path_;
  }

 private:
  fs::path path_;
};

void refuse(bool asked, std::string_view what, std::string_view key, std::string_view instead) {
  if (asked) fail(ErrorKind::config, fmt::format("{} is not in this version", what), std::string(key), std::string(instead));
}

/// What the keys of `data` can say and this version cannot do: refused by name, never ignored.
void check_supported(const TrainConfig::Data& data) {
  refuse(data.packing == PackingKind::pad, "packing 'pad'", "data.packing", "use concat");
  refuse(data.packing == PackingKind::pack, "packing 'pack'", "data.packing", "use concat");
  refuse(data.template_name != "none", fmt::format("template '{}'", escape(data.template_name, 40)), "data.template",
         "use none (documents)");
  refuse(!data.system_prompt.empty(), "a system prompt", "data.system_prompt", "leave it out");
  refuse(data.on_bad_row == BadRowAction::skip, "skipping bad records", "data.on_bad_row",
         "use stop, and correct the records that it names");
  refuse(data.allow_append, "data that grew since the checkpoint", "data.allow_append", "use false");
}

void check_weights(const std::vector<DataEntry>& entries) {
  const auto weighted = std::count_if(entries.begin(), entries.end(), [](const DataEntry& e) { return e.weight.has_value(); });
  LONGLORA_CHECK(weighted == 0 || static_cast<size_t>(weighted) == entries.size(), config,
                 fmt::format("{} of {} entries have a weight", weighted, entries.size()), "data.train",
                 "give all entries a weight, or none");
}

/// Rows without targets: a fault of the data, unless it is a single one (the rest of a cut) or at most 1 %.
void check_removed(const JoinedSource& tokens, const ConcatRows& rows, int64_t tokens_per_row, const std::string& path) {
  const size_t removed = rows.removed().size();
  if (rows.size() > 0 && (removed <= 1 || removed * 100 <= rows.num_cuts())) return;
  std::vector<std::string> places;
  for (size_t i = 0; i < std::min<size_t>(removed, 5); ++i)
    places.push_back(tokens.place_of(rows.removed()[i] * static_cast<uint64_t>(tokens_per_row)));
  fail(ErrorKind::data, fmt::format("{} of {} rows have no token to predict (at most 1 % may)", removed, rows.num_cuts()), path,
       "check the documents named above: they hold nothing but an end token, or data.sequence_length is 1", places);
}

}  // namespace

struct Dataset::State {
  struct Source {
    DataEntry entry;
    OpenedSource opened;
    ConcatRows rows;
  };
  DatasetOptions options;
  TemporaryFolder temporary;
  std::vector<Source> sources;

  int32_t padding_id() const { return static_cast<int32_t>(options.eos.value_or(0)); }
};

Dataset::Dataset(const std::vector<DataEntry>& entries, const DatasetOptions& options) : state_(std::make_unique<State>()) {
  LONGLORA_INVARIANT(!entries.empty() && options.sequence_length > 0 && options.vocab_size > 0);
  check_supported(options.data);
  check_weights(entries);
  state_->options = options;
  DatasetOptions& own = state_->options;
  if (!own.eos && own.tokenizer && own.tokenizer->eos()) own.eos = *own.tokenizer->eos();
  LONGLORA_CHECK(!own.eos || (*own.eos >= 0 && *own.eos < own.vocab_size), config,
                 fmt::format("end-of-text id {} is outside the model's vocabulary of {}", *own.eos, own.vocab_size), "data.eos",
                 "set data.eos to an id of the model");
  const fs::path cache = own.cache_folder.empty() ? state_->temporary.create() : own.cache_folder;
  for (const DataEntry& entry : entries) {
    OpenedSource opened = open_source(entry, own, cache);
    ConcatRows rows(*opened.tokens, own.sequence_length);
    check_removed(*opened.tokens, rows, own.sequence_length, entry.path);
    state_->sources.push_back({entry, std::move(opened), std::move(rows)});
  }
}

Dataset::~Dataset() = default;

uint64_t Dataset::num_sources() const { return state_->sources.size(); }

uint64_t Dataset::rows(uint64_t source) const { return state_->sources.at(source).rows.size(); }

std::vector<double> Dataset::weights() const {
  std::vector<double> result;
  for (const State::Source& source : state_->sources)
    if (source.entry.weight) result.push_back(*source.entry.weight);
  return result;
}

void Dataset::append_row(uint64_t source, uint64_t row, TokenBatch& batch) const {
  const State::Source& s = state_->sources.at(source);
  const int64_t width = state_->options.sequence_length;
  const uint64_t first = s.rows.first_token(row);
  append_concat_row(*s.opened.tokens, first, width, state_->padding_id(), batch);
  // The last look before a kernel sees the ids: a file may have been rewritten since it was checked.
  const auto ids = std::span(batch.ids).last(static_cast<size_t>(width));
  const auto bad = std::find_if(ids.begin(), ids.end(), [v = state_->options.vocab_size](int32_t id) { return id < 0 || id >= v; });
  LONGLORA_CHECK(bad == ids.end(), data,
                 fmt::format("token id {} is outside the model's vocabulary of {}", *bad, state_->options.vocab_size),
                 s.opened.tokens->place_of(first + static_cast<uint64_t>(bad - ids.begin())),
                 "the file changed while it was read; start again with whole files");
}

const TokenSource& Dataset::tokens(uint64_t source) const { return *state_->sources.at(source).opened.tokens; }

std::vector<SourceIdentity> Dataset::identities() const {
  std::vector<SourceIdentity> result;
  for (const State::Source& source : state_->sources)
    result.insert(result.end(), source.opened.identities.begin(), source.opened.identities.end());
  return result;
}

Digest Dataset::digest() const {
  const DatasetOptions& o = state_->options;
  Sha256 hash;
  hash.update("longlora-data-1")
      .update_value(o.sequence_length)
      .update_value(o.eos.value_or(-1))
      .update_value(static_cast<uint8_t>(o.data.packing));
  hash.update_value(uint8_t{o.data.document_mask}).update_value(uint64_t{state_->sources.size()});
  for (const State::Source& source : state_->sources) {
    hash.update_value(source.entry.weight.value_or(0)).update_value(source.opened.content);
    hash.update_value(uint64_t{source.opened.identities.size()});
    for (const SourceIdentity& identity : source.opened.identities) hash.update_value(identity.bytes).update_value(identity.digest);
  }
  return hash.finish();
}

std::vector<std::string> Dataset::summary() const {
  std::vector<std::string> lines;
  for (const State::Source& s : state_->sources) {
    const OpenedSource& o = s.opened;
    std::string line =
        fmt::format("{}: {} file{} ({}), {} documents, {} tokens, {} rows of {}, {} tokens of padding", s.entry.path, o.identities.size(),
                    o.identities.size() == 1 ? "" : "s", o.formats, o.tokens->document_starts().size() - 1, o.tokens->num_tokens(),
                    s.rows.size(), state_->options.sequence_length, s.rows.padding());
    if (s.entry.weight) line += fmt::format(", weight {}", *s.entry.weight);
    if (o.empty_records > 0) line += fmt::format(", {} empty records left out", o.empty_records);
    if (!s.rows.removed().empty()) line += fmt::format(", {} rows without targets left out", s.rows.removed().size());
    if (o.from_cache) line += ", tokens from the cache";
    if (o.tokenised_now) line += ", tokenised now";
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace longlora
