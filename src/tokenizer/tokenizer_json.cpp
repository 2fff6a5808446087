#include "tokenizer/tokenizer_json.h"

#include <string>
#include <unordered_set>

#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr size_t kMaxMerges = size_t{1} << 21;
// Merges as pairs are three values each; an added token has eight.
constexpr JsonLimits kLimits{.max_bytes = kMaxTokenizerJsonBytes, .max_depth = 16, .max_values = 3 * kMaxMerges + 10 * kMaxTokens};

void read_vocabulary(const JsonPlace& model, Vocabulary& out) {
  const JsonPlace vocab = model.at("vocab");
  const auto& members = vocab.object();
  if (members.empty()) vocab.refuse("the vocabulary is empty");
  if (members.size() > kMaxTokens) vocab.refuse("the vocabulary has " + std::to_string(members.size()) + " tokens, limit 1048576");
  for (const auto& [text, value] : members) {
    const JsonPlace entry{&value, vocab.file, "model.vocab"};
    const auto id = static_cast<int32_t>(entry.unsigned_integer(kMaxTokens - 1));
    if (!out.add(text, id)) entry.refuse("token " + escape(text) + " has id " + std::to_string(id) + ", which another token has");
  }
}

/// The two parts of a merge: "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> parts_of(const JsonPlace& merge) {
  if (merge.value->array()) {
    if (merge.array().size() != 2) merge.refuse("a merge of " + std::to_string(merge.array().size()) + " parts, expected 2");
    return {merge.item(0).string(), merge.item(1).string()};
  }
  const std::string_view text = merge.string();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    merge.refuse("a merge must be two tokens with one space between, got " + escape(text));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

BpeModel::Merges read_merges(const JsonPlace& model, const Vocabulary& vocabulary) {
  const JsonPlace list = model.at("merges");
  const size_t count = list.array().size();
  if (count > kMaxMerges) list.refuse(std::to_string(count) + " merges, limit 2097152");
  BpeModel::Merges merges;
  merges.reserve(count);
  std::string joined;
  for (size_t i = 0; i < count; ++i) {
    const JsonValue& item = list.array()[i];
    if (item.string() && item.string()->starts_with("#version")) continue;
    const JsonPlace merge{&item, list.file, list.path};   // no index: its text would cost more than the merge
    const auto [left, right] = parts_of(merge);
    joined.assign(left).append(right);
    const auto id_of = [&](std::string_view text) {
      const auto id = vocabulary.id_of(text);
      if (!id || text.empty()) {
        merge.refuse("merge " + std::to_string(i) + " needs token " + escape(text) + ", which is not in the vocabulary");
      }
      return *id;
    };
    merges.push_back({id_of(left), id_of(right), id_of(joined)});
  }
  return merges;
}

void refuse_affix(const JsonPlace& model, std::string_view key) {
  const auto affix = model.find(key);
  if (affix && !affix->string().empty()) affix->refuse(std::string(key) + " is not supported");
}

BpeOptions read_options(const JsonPlace& model, const Vocabulary& vocabulary) {
  if (const auto dropout = model.find("dropout")) {
    if (dropout->value->number() != 0.0) dropout->refuse("dropout is not supported: encoding must not be random");
  }
  refuse_affix(model, "continuing_subword_prefix");
  refuse_affix(model, "end_of_word_suffix");
  BpeOptions options;
  options.byte_fallback = model.boolean_or("byte_fallback", false);
  options.fuse_unk = model.boolean_or("fuse_unk", false);
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  if (const auto unknown = model.find("unk_token")) {
    options.unknown = vocabulary.id_of(unknown->string());
    if (!options.unknown) unknown->refuse("unk_token " + escape(unknown->string()) + " is not in the vocabulary");
  }
  return options;
}

/// An added token that the model knows must have the model's id; a new one must have an id of its own.
void check_added_token(const JsonPlace& entry, const AddedToken& token, const Vocabulary& model, std::unordered_set<int32_t>& new_ids) {
  const auto id = model.id_of(token.content);
  if (id == token.id) return;
  const std::string claim = "added token " + escape(token.content) + " has id " + std::to_string(token.id);
  if (id) entry.refuse(claim + ", the model has " + std::to_string(*id));
  if (model.text_of(token.id) || !new_ids.insert(token.id).second) entry.refuse(claim + ", which another token has");
}

std::vector<AddedToken> read_added_tokens(const std::optional<JsonPlace>& list, const Vocabulary& model) {
  std::vector<AddedToken> tokens;
  if (!list) return tokens;
  std::unordered_set<std::string> contents;
  std::unordered_set<int32_t> new_ids;
  for (size_t i = 0; i < list->array().size(); ++i) {
    const JsonPlace entry = list->item(i);
    AddedToken token = read_added_token(entry);
    if (!contents.insert(token.content).second) entry.refuse("added token " + escape(token.content) + " stands twice");
    check_added_token(entry, token, model, new_ids);
    tokens.push_back(std::move(token));
  }
  if (model.count() + new_ids.size() > kMaxTokens) list->refuse("more than 1048576 tokens in all");
  return tokens;
}

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, std::string_view file) {
  const JsonValue tree = parse_json(text, file, kLimits);
  const JsonPlace root{&tree, file, ""};
  // truncation and padding are settings of a caller, which every user of the file overrides; they change no token.
  const JsonPlace model = root.at("model");
  const std::string kind = model.string_or("type", "BPE");
  if (kind != "BPE") model.refuse("model '" + escape(kind) + "' is not supported, only BPE");

  TokenizerJson parts;
  parts.model_tokens = std::make_unique<Vocabulary>();
  read_vocabulary(model, *parts.model_tokens);
  const BpeOptions options = read_options(model, *parts.model_tokens);
  parts.added_tokens = read_added_tokens(root.find("added_tokens"), *parts.model_tokens);
  std::vector<int32_t> special;
  for (const AddedToken& token : parts.added_tokens) {
    if (token.special) special.push_back(token.id);
  }
  parts.model = std::make_unique<BpeModel>(*parts.model_tokens, read_merges(model, *parts.model_tokens), special, options);
  parts.normalizer = read_normalizer(root.find("normalizer"));
  parts.pre_tokenizer = read_pre_tokenizer(root.find("pre_tokenizer"));
  parts.decoder = read_decoder(root.find("decoder"));
  parts.around = read_post_processor(root.find("post_processor"));
  return parts;
}

}  // namespace longlora
