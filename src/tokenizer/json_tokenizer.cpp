#include "tokenizer/json_tokenizer.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>

#include "longlora/core/error.h"
#include "longlora/core/text.h"
#include "tokenizer/tokenizer_json.h"

namespace longlora {
namespace {

std::vector<AddedTokenFinder::Needle> needles(const TokenizerJson& parts, bool normalized) {
  std::vector<AddedTokenFinder::Needle> out;
  for (const bool special : {true, false}) {   // special tokens come first where two have the same normal form
    for (const AddedToken& token : parts.added_tokens) {
      if (token.normalized != normalized || token.special != special) continue;
      out.push_back({normalized ? normalize(parts.normalizer, token.content) : token.content, token});
    }
  }
  return out;
}

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(TokenizerJson parts, std::string_view file, const TokenizerPolicy& policy, const Digest& digest)
      : parts_(std::move(parts)), plain_finder_(needles(parts_, false)), normalized_finder_(needles(parts_, true)) {
    digest_ = digest;
    for (const AddedToken& token : parts_.added_tokens) {
      if (!parts_.model_tokens->id_of(token.content)) added_.add(token.content, token.id);
      if (token.special) special_ids_.insert(token.id);
    }
    bos_ = policy.bos_token ? std::optional(named_token(*policy.bos_token, "bos_token", file)) : parts_.around.before;
    eos_ = policy.eos_token ? std::optional(named_token(*policy.eos_token, "eos_token", file)) : parts_.around.after;
    adds_bos_ = policy.adds_bos.value_or(parts_.around.before.has_value()) && bos_;
    adds_eos_ = policy.adds_eos.value_or(parts_.around.after.has_value()) && eos_;
    for (const auto& id : {parts_.around.before, parts_.around.after}) {
      LONGLORA_CHECK(!id || text_of(*id), data, "post_processor adds token " + std::to_string(*id) + ", which does not exist",
                     std::string(file), "use a tokenizer whose parts fit together");
    }
  }

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;

  std::optional<int32_t> id_of(std::string_view token) const override {
    const auto id = parts_.model_tokens->id_of(token);
    return id ? id : added_.id_of(token);
  }
  std::string token_of(int32_t id) const override {
    const std::string* text = text_of(id);
    LONGLORA_CHECK(text, data, "token " + std::to_string(id) + " does not exist", "ids 0 .. " + std::to_string(vocab_size() - 1),
                   "give the tokenizer that made the ids");
    return *text;
  }
  int64_t vocab_size() const override { return std::max(parts_.model_tokens->end_id(), added_.end_id()); }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  bool adds_eos() const override { return adds_eos_; }
  bool is_special(int32_t id) const override { return special_ids_.contains(id); }

 private:
  const std::string* text_of(int32_t id) const {
    const std::string* text = parts_.model_tokens->text_of(id);
    return text ? text : added_.text_of(id);
  }
  int32_t named_token(const std::string& name, const char* role, std::string_view file) const {
    const auto id = id_of(name);
    LONGLORA_CHECK(id, data, std::string(role) + " " + escape(name) + " is not in the vocabulary",
                   std::string(file) + ", tokenizer_config.json", "correct tokenizer_config.json");
    return *id;
  }
  void encode_words(std::string text, bool starts_document, std::vector<int32_t>& out, BpeScratch&) const;

  TokenizerJson parts_;
  AddedTokenFinder plain_finder_, normalized_finder_;
  Vocabulary added_;                         // tokens that the model does not have
  std::unordered_set<int32_t> special_ids_;
  std::optional<int32_t> bos_, eos_;
  bool adds_bos_ = false, adds_eos_ = false;
};

void JsonTokenizer::encode_words(std::string text, bool starts_document, std::vector<int32_t>& out, BpeScratch& scratch) const {
  const Words words = pre_tokenize(parts_.pre_tokenizer, std::move(text), starts_document);
  for (const Words::Range& range : words.ranges) parts_.model->encode(words.word(range), out, scratch);
}

std::vector<int32_t> JsonTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (const auto bad = invalid_utf8_at(text)) {
    fail(ErrorKind::data, "invalid UTF-8 at byte " + std::to_string(*bad), "text to encode", "give UTF-8 text");
  }
  const SpecialText special = options.parse_special ? SpecialText::parsed : SpecialText::plain;
  std::vector<int32_t> out;
  BpeScratch scratch;
  if (options.add_bos && bos_) out.push_back(*bos_);
  for (const TextPart& raw : plain_finder_.split(text, special)) {
    if (raw.token) {
      out.push_back(*raw.token);
      continue;
    }
    std::string normal = normalize(parts_.normalizer, text.substr(raw.begin, raw.end - raw.begin));
    if (normalized_finder_.empty()) {
      encode_words(std::move(normal), raw.begin == 0, out, scratch);
      continue;
    }
    for (const TextPart& part : normalized_finder_.split(normal, special)) {
      if (part.token) out.push_back(*part.token);
      else encode_words(normal.substr(part.begin, part.end - part.begin), raw.begin == 0 && part.begin == 0, out, scratch);
    }
  }
  if (options.add_eos && eos_) out.push_back(*eos_);
  return out;
}

std::string JsonTokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::vector<std::string> texts;
  texts.reserve(ids.size());
  for (const int32_t id : ids) {
    if (!(skip_special && is_special(id))) texts.push_back(token_of(id));
  }
  return texts.empty() ? std::string() : run_decoders(parts_.decoder, std::move(texts));
}

}  // namespace

std::unique_ptr<Tokenizer> make_json_tokenizer(std::string_view text, std::string_view file, const TokenizerPolicy& policy,
                                               const Digest& digest) {
  return std::make_unique<JsonTokenizer>(read_tokenizer_json(text, file), file, policy, digest);
}

}  // namespace longlora
