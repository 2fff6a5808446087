#include "tokenizer/sp_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "longlora/core/error.h"
#include "longlora/core/text.h"
#include "tokenizer/model_proto.h"
#include "tokenizer/sp_chunks.h"
#include "tokenizer/vocabulary.h"

namespace longlora {
namespace {

using Processor = sentencepiece::SentencePieceProcessor;

std::unique_ptr<Processor> load(const std::string& bytes, std::string_view file) {
  constexpr int kSilent = 100;   // errors arrive as a status; the library's log would go to stderr
  sentencepiece::SetMinLogLevel(kSilent);
  auto processor = std::make_unique<Processor>();
  const auto status = processor->LoadFromSerializedProto(bytes);
  LONGLORA_CHECK(status.ok(), data, "sentencepiece refuses the model: " + escape(status.message()), std::string(file),
                 "give an intact tokenizer.model");
  return processor;
}

class SpTokenizer final : public Tokenizer {
 public:
  SpTokenizer(const std::string& bytes, std::string_view file, const TokenizerPolicy& policy, const Digest& digest);

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;

  std::optional<int32_t> id_of(std::string_view token) const override { return tokens_.id_of(token); }
  std::string token_of(int32_t id) const override {
    const std::string* text = tokens_.text_of(id);
    LONGLORA_CHECK(text, data, "token " + std::to_string(id) + " does not exist", "ids 0 .. " + std::to_string(vocab_size() - 1),
                   "give the tokenizer that made the ids");
    return *text;
  }
  int64_t vocab_size() const override { return tokens_.end_id(); }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  bool adds_eos() const override { return adds_eos_; }
  bool is_special(int32_t id) const override { return special_ids_.contains(id); }

 private:
  void add_pieces(const ModelSummary&, std::string_view file);
  std::vector<AddedToken> matched_tokens(const ModelSummary&, const TokenizerPolicy&, std::string_view file);
  std::optional<int32_t> find_role(const std::optional<std::string>& name, int own_id, const char* role, std::string_view file) const;
  const Processor& processor_for(bool behind_token) const { return behind_token && !legacy_ ? *bare_ : *processor_; }
  void encode_range(std::string_view text, bool behind_token, std::vector<int32_t>& out) const;

  std::unique_ptr<Processor> processor_;
  std::unique_ptr<Processor> bare_;          // the same without the dummy prefix
  ChunkRule chunks_;
  bool legacy_ = true;
  Vocabulary tokens_;
  AddedTokenFinder finder_;
  std::unordered_set<int32_t> special_ids_;
  int32_t num_pieces_ = 0;
  std::optional<int32_t> bos_, eos_;
  bool adds_bos_ = false, adds_eos_ = false;
};

SpTokenizer::SpTokenizer(const std::string& bytes, std::string_view file, const TokenizerPolicy& policy, const Digest& digest) {
  digest_ = digest;
  const ModelSummary summary = walk_model_proto(bytes, file);
  processor_ = load(bytes, file);
  chunks_ = ChunkRule(summary);
  legacy_ = policy.legacy;
  if (chunks_.cuts() || !legacy_) bare_ = load(bytes + dummy_prefix_override(false), file);
  add_pieces(summary, file);
  std::vector<AddedTokenFinder::Needle> needles;
  for (AddedToken& token : matched_tokens(summary, policy, file)) {
    if (token.special) special_ids_.insert(token.id);
    needles.push_back({token.content, token});
  }
  finder_ = AddedTokenFinder(std::move(needles));
  bos_ = find_role(policy.bos_token, processor_->bos_id(), "bos_token", file);
  eos_ = find_role(policy.eos_token, processor_->eos_id(), "eos_token", file);
  adds_bos_ = policy.adds_bos.value_or(true) && bos_;
  adds_eos_ = policy.adds_eos.value_or(false) && eos_;
}

void SpTokenizer::add_pieces(const ModelSummary& summary, std::string_view file) {
  num_pieces_ = static_cast<int32_t>(summary.pieces.size());
  for (int32_t id = 0; id < num_pieces_; ++id) {
    const std::string text(summary.pieces[static_cast<size_t>(id)].text);
    LONGLORA_CHECK(tokens_.add(text, id), data, "piece " + escape(text) + " stands twice", std::string(file),
                   "give an intact tokenizer.model");
  }
}

/// Control and unknown pieces are markers in the text; user-defined pieces are found by the library. tokenizer_config.json may add more.
std::vector<AddedToken> SpTokenizer::matched_tokens(const ModelSummary& summary, const TokenizerPolicy& policy,
                                                    std::string_view file) {
  std::vector<AddedToken> tokens = policy.added_tokens;
  for (const AddedToken& token : tokens) {
    if (tokens_.id_of(token.content) == token.id) continue;
    LONGLORA_CHECK(
        token.id >= num_pieces_ && tokens_.add(token.content, token.id), data,
        "added token " + escape(token.content) + " has id " + std::to_string(token.id) + ", which does not fit the model's pieces",
        std::string(file) + ", tokenizer_config.json", "correct added_tokens_decoder in tokenizer_config.json");
  }
  for (int32_t id = 0; id < num_pieces_; ++id) {
    const ModelPiece& piece = summary.pieces[static_cast<size_t>(id)];
    if (piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
    special_ids_.insert(id);
    const bool known = std::any_of(tokens.begin(), tokens.end(), [id](const AddedToken& t) { return t.id == id; });
    if (!known) tokens.push_back({.id = id, .content = std::string(piece.text), .special = true});
  }
  return tokens;
}

std::optional<int32_t> SpTokenizer::find_role(const std::optional<std::string>& name, int own_id, const char* role,
                                              std::string_view file) const {
  if (!name) return own_id >= 0 ? std::optional<int32_t>(own_id) : std::nullopt;
  const auto id = id_of(*name);
  LONGLORA_CHECK(id, data, std::string(role) + " " + escape(*name) + " is not in the vocabulary",
                 std::string(file) + ", tokenizer_config.json", "correct tokenizer_config.json");
  return id;
}

void SpTokenizer::encode_range(std::string_view text, bool behind_token, std::vector<int32_t>& out) const {
  std::vector<int> ids;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = chunks_.end_of_chunk(text, begin);
    const Processor& processor = begin > 0 ? *bare_ : processor_for(behind_token);
    const auto status = processor.Encode({text.data() + begin, end - begin}, &ids);
    LONGLORA_CHECK(status.ok(), data, "sentencepiece cannot encode the text: " + escape(status.message()), "text to encode",
                   "split the text into documents");
    out.insert(out.end(), ids.begin(), ids.end());
  }
}

std::vector<int32_t> SpTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (const auto bad = invalid_utf8_at(text)) {
    fail(ErrorKind::data, "invalid UTF-8 at byte " + std::to_string(*bad), "text to encode", "give UTF-8 text");
  }
  std::vector<int32_t> out;
  if (options.add_bos && bos_) out.push_back(*bos_);
  const SpecialText special = options.parse_special ? SpecialText::parsed : SpecialText::plain;
  for (const TextPart& part : finder_.split(text, special)) {
    if (part.token) out.push_back(*part.token);
    else encode_range(text.substr(part.begin, part.end - part.begin), part.begin > 0, out);
  }
  if (options.add_eos && eos_) out.push_back(*eos_);
  return out;
}

std::string SpTokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string out;
  std::vector<int> run;
  const auto flush = [&](bool behind_token) {
    std::string text;
    const auto status = processor_for(behind_token).Decode(run, &text);
    LONGLORA_CHECK(status.ok(), data, "sentencepiece cannot decode the ids: " + escape(status.message()), "ids to decode",
                   "give the tokenizer that made the ids");
    out += text;
    run.clear();
  };
  bool behind_token = false;
  for (const int32_t id : ids) {
    const std::string token = token_of(id);
    if (is_special(id) && skip_special) continue;
    if (!is_special(id) && id < num_pieces_) {
      run.push_back(id);
      continue;
    }
    flush(behind_token);
    out += token;
    behind_token = true;
  }
  flush(behind_token);
  return out;
}

}  // namespace

std::unique_ptr<Tokenizer> make_sp_tokenizer(const std::string& bytes, std::string_view file, const TokenizerPolicy& policy,
                                             const Digest& digest) {
  return std::make_unique<SpTokenizer>(bytes, file, policy, digest);
}

}  // namespace longlora
