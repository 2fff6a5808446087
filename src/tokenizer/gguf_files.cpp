#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/tokenizer/tokenizer.h"
#include "tokenizer/model_proto.h"
#include "tokenizer/vocabulary.h"

namespace longlora {
namespace {

constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4;

// The splits of byte-level kinds by the name that GGUF gives them, as tokenizer.json spells them.
constexpr std::string_view kGpt2Steps = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
constexpr std::string_view kSmolLmSteps =
    R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]})";
constexpr std::string_view kLlama3Steps =
    R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|)"
    R"(\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";

// The sentencepiece kind, with and without the dummy prefix.
#define LONGLORA_SPACES_ R"({"type":"Replace","pattern":{"String":" "},"content":"▁"})"
#define LONGLORA_TEXT_ R"({"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"})"
constexpr std::string_view kBareNormalizer = LONGLORA_SPACES_;
constexpr std::string_view kPrefixNormalizer =
    R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)" LONGLORA_SPACES_ "]}";
constexpr std::string_view kBareDecoder = R"({"type":"Sequence","decoders":[)" LONGLORA_TEXT_ "]}";
constexpr std::string_view kPrefixDecoder =
    R"({"type":"Sequence","decoders":[)" LONGLORA_TEXT_ R"(,{"type":"Strip","content":" ","start":1,"stop":0}]})";

[[noreturn]] void refuse(const std::string& what, const std::string& key) {
  fail(ErrorKind::data, what, "tokenizer.ggml." + key, "give a GGUF file with an intact tokenizer");
}

void check_parts(const TokenizerParts& parts, int64_t embedding_rows) {
  const size_t count = parts.tokens.size();
  if (count == 0 || count > kMaxTokens) refuse(std::to_string(count) + " tokens, expected 1 .. 1048576", "tokens");
  if (static_cast<int64_t>(count) != embedding_rows) {
    refuse(std::to_string(count) + " tokens, but the embedding has " + std::to_string(embedding_rows) + " rows", "tokens");
  }
  if (parts.types.size() != count) {
    refuse(std::to_string(parts.types.size()) + " types for " + std::to_string(count) + " tokens", "token_type");
  }
  for (size_t i = 0; i < count; ++i) {
    const std::string token = "token " + std::to_string(i);
    if (parts.types[i] < 1 || parts.types[i] > 6) refuse(token + " has type " + std::to_string(parts.types[i]), "token_type");
    if (parts.tokens[i].empty() || invalid_utf8_at(parts.tokens[i])) refuse(token + " is empty or not UTF-8", "tokens");
  }
  for (const auto& [id, key] : {std::pair{parts.bos, "bos_token_id"}, {parts.eos, "eos_token_id"}, {parts.unknown, "unknown_token_id"},
                                {parts.padding, "padding_token_id"}}) {
    if (id && (*id < 0 || *id >= static_cast<int64_t>(count))) refuse("token " + std::to_string(*id) + " does not exist", key);
  }
}

const std::string* token_text(const TokenizerParts& parts, const std::optional<int64_t>& id) {
  return id ? &parts.tokens[static_cast<size_t>(*id)] : nullptr;
}

/// Members of an object or items of an array, with commas.
class List {
 public:
  explicit List(std::string& out) : out_(out) {}
  std::string& item() {
    if (!first_) out_ += ",\n";
    first_ = false;
    return out_;
  }

 private:
  std::string& out_;
  bool first_ = true;
};

void write_added_tokens(const TokenizerParts& parts, std::string& out) {
  List list(out);
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    const int32_t type = parts.types[id];
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    list.item() += "{\"id\":" + std::to_string(id) + ",\"content\":" + json_quote(parts.tokens[id]) +
                   ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":" +
                   (type == kUserDefined ? "false}" : "true}");
  }
}

void write_vocabulary(const TokenizerParts& parts, std::string& out) {
  List list(out);
  for (size_t id = 0; id < parts.tokens.size(); ++id) list.item() += json_quote(parts.tokens[id]) + ":" + std::to_string(id);
}

/// Adds BOS or EOS around a text as the metadata says; "null" when neither is wanted.
std::string post_processor(const TokenizerParts& parts, bool adds_bos, bool adds_eos) {
  std::string pieces, tokens;
  List piece_list(pieces), token_list(tokens);
  const auto special = [&](int64_t id) {
    const std::string name = json_quote(parts.tokens[static_cast<size_t>(id)]);
    piece_list.item() += "{\"SpecialToken\":{\"id\":" + name + ",\"type_id\":0}}";
    if (tokens.find(name + ":") == std::string::npos) {
      token_list.item() += name + ":{\"id\":" + name + ",\"ids\":[" + std::to_string(id) + "],\"tokens\":[" + name + "]}";
    }
  };
  if (adds_bos) special(*parts.bos);
  piece_list.item() += "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}";
  if (adds_eos) special(*parts.eos);
  if (tokens.empty()) return "null";
  // Every reader wants a template for pairs as well; it is never used here.
  return "{\"type\":\"TemplateProcessing\",\"single\":[" + pieces + "],\"pair\":[" +
         R"({"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}})" + "],\"special_tokens\":{" + tokens + "}}";
}

struct JsonSteps {
  std::string_view normalizer = "null", pre_tokenizer = "null", decoder;
  bool ignore_merges = false, byte_fallback = false;
  const std::string* unknown = nullptr;
};

std::string tokenizer_json(const TokenizerParts& parts, const JsonSteps& steps, const std::string& merges,
                           const std::string& processor) {
  const std::string falls_back = steps.byte_fallback ? "true" : "false";
  std::string out = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[\n";
  write_added_tokens(parts, out);
  out += "],\n\"normalizer\":" + std::string(steps.normalizer) + ",\n\"pre_tokenizer\":" + std::string(steps.pre_tokenizer) +
         ",\n\"post_processor\":" + processor + ",\n\"decoder\":" + std::string(steps.decoder);
  out += ",\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":" + (steps.unknown ? json_quote(*steps.unknown) : "null") +
         ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":" + falls_back + ",\"byte_fallback\":" + falls_back +
         ",\"ignore_merges\":" + (steps.ignore_merges ? "true" : "false") + ",\"vocab\":{\n";
  write_vocabulary(parts, out);
  return out + "},\"merges\":[\n" + merges + "]}}\n";
}

std::string tokenizer_config(const TokenizerParts& parts, bool adds_bos, bool adds_eos, int64_t context) {
  std::string out = "{\n";
  List list(out);
  const auto member = [&](const char* key, const std::string& value) { list.item() += std::string("\"") + key + "\": " + value; };
  const auto token = [&](const char* key, const std::optional<int64_t>& id) {
    if (const std::string* text = token_text(parts, id)) member(key, json_quote(*text));
  };
  member("add_bos_token", adds_bos ? "true" : "false");
  member("add_eos_token", adds_eos ? "true" : "false");
  if (parts.add_space_prefix) member("add_prefix_space", *parts.add_space_prefix ? "true" : "false");
  token("bos_token", parts.bos);
  token("eos_token", parts.eos);
  token("unk_token", parts.unknown);
  token("pad_token", parts.padding);
  if (!parts.chat_template.empty()) member("chat_template", json_quote(parts.chat_template));
  member("clean_up_tokenization_spaces", "false");
  if (parts.model == "llama") member("legacy", "true");
  member("model_max_length", std::to_string(context));
  member("tokenizer_class", "\"PreTrainedTokenizerFast\"");
  return out + "\n}\n";
}

std::vector<NamedFile> byte_level_files(const TokenizerParts& parts, int64_t context) {
  JsonSteps steps;
  steps.decoder = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";
  if (parts.pre == "smollm") steps.pre_tokenizer = kSmolLmSteps;
  else if (parts.pre == "llama-bpe") steps.pre_tokenizer = kLlama3Steps;
  else if (parts.pre == "gpt-2") steps.pre_tokenizer = kGpt2Steps;
  else refuse("pre-tokenizer " + escape(parts.pre) + " is not supported, only smollm, llama-bpe, gpt-2", "pre");
  steps.ignore_merges = parts.pre == "llama-bpe";

  std::string merges;
  List list(merges);
  for (size_t i = 0; i < parts.merges.size(); ++i) {
    const std::string& merge = parts.merges[i];
    const size_t space = merge.find(' ');
    if (invalid_utf8_at(merge) || space == merge.npos || space == 0 || space + 1 == merge.size()) {
      refuse("merge " + std::to_string(i) + " is not two tokens", "merges");
    }
    list.item() += "[" + json_quote(merge.substr(0, space)) + "," + json_quote(merge.substr(space + 1)) + "]";
  }
  // Llama-3's files add BOS without saying so in the metadata; the other two never do.
  const bool adds_bos = parts.add_bos.value_or(parts.pre == "llama-bpe") && parts.bos;
  const bool adds_eos = parts.add_eos.value_or(false) && parts.eos;
  return {{"tokenizer.json", tokenizer_json(parts, steps, merges, post_processor(parts, adds_bos, adds_eos))},
          {"tokenizer_config.json", tokenizer_config(parts, adds_bos, adds_eos, context)}};
}

/// sentencepiece joins any two neighbours whose text is a piece, best score first. As a list of merges that is every split of every normal
/// piece into two pieces, by score; longer left parts first among equals.
std::string sentencepiece_merges(const TokenizerParts& parts) {
  std::unordered_map<std::string_view, size_t> joinable;
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.types[id] == kNormal) joinable.emplace(parts.tokens[id], id);
  }
  struct Split { size_t id, left_bytes, left_characters, right_characters; };
  std::vector<Split> splits;
  const auto is_start = [](char c) { return (static_cast<uint8_t>(c) & 0xC0u) != 0x80u; };
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.types[id] != kNormal) continue;
    const std::string_view text = parts.tokens[id];
    const size_t characters = static_cast<size_t>(std::count_if(text.begin(), text.end(), is_start));
    for (size_t at = 1, left = 1; at < text.size(); ++at) {
      if (!is_start(text[at])) continue;
      if (joinable.contains(text.substr(0, at)) && joinable.contains(text.substr(at))) splits.push_back({id, at, left, characters - left});
      ++left;
    }
  }
  std::stable_sort(splits.begin(), splits.end(), [&](const Split& a, const Split& b) {
    if (parts.scores[a.id] != parts.scores[b.id]) return parts.scores[a.id] > parts.scores[b.id];
    if (a.left_characters != b.left_characters) return a.left_characters > b.left_characters;
    return a.right_characters > b.right_characters;
  });
  std::string out;
  List list(out);
  for (const Split& split : splits) {
    const std::string& text = parts.tokens[split.id];
    list.item() += "[" + json_quote(text.substr(0, split.left_bytes)) + "," + json_quote(text.substr(split.left_bytes)) + "]";
  }
  return out;
}

std::vector<NamedFile> sentencepiece_files(const TokenizerParts& parts, int64_t context) {
  if (parts.scores.size() != parts.tokens.size()) {
    refuse(std::to_string(parts.scores.size()) + " scores for " + std::to_string(parts.tokens.size()) + " tokens", "scores");
  }
  ModelProtoSpec spec;
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    spec.pieces.push_back({parts.tokens[id], parts.scores[id], static_cast<PieceType>(parts.types[id])});
    if (parts.types[id] == kUnknown) spec.unknown = static_cast<int32_t>(id);
  }
  const auto id_or_none = [](const std::optional<int64_t>& id) { return id ? static_cast<int32_t>(*id) : -1; };
  spec.bos = id_or_none(parts.bos);
  spec.eos = id_or_none(parts.eos);
  spec.padding = id_or_none(parts.padding);
  spec.adds_dummy_prefix = parts.add_space_prefix.value_or(true);

  JsonSteps steps;
  steps.normalizer = spec.adds_dummy_prefix ? kPrefixNormalizer : kBareNormalizer;
  steps.decoder = spec.adds_dummy_prefix ? kPrefixDecoder : kBareDecoder;
  steps.byte_fallback = true;
  steps.unknown = &parts.tokens[static_cast<size_t>(spec.unknown)];
  const bool adds_bos = parts.add_bos.value_or(true) && parts.bos;
  const bool adds_eos = parts.add_eos.value_or(false) && parts.eos;
  return {{"tokenizer.json", tokenizer_json(parts, steps, sentencepiece_merges(parts), post_processor(parts, adds_bos, adds_eos))},
          {"tokenizer.model", write_model_proto(spec)},
          {"tokenizer_config.json", tokenizer_config(parts, adds_bos, adds_eos, context)}};
}

}  // namespace

std::vector<NamedFile> tokenizer_files_from_gguf(const TokenizerParts& parts, int64_t embedding_rows, int64_t context) {
  check_parts(parts, embedding_rows);
  if (parts.model == "gpt2") return byte_level_files(parts, context);
  if (parts.model == "llama") return sentencepiece_files(parts, context);
  refuse("tokenizer model " + escape(parts.model) + " is not supported, only gpt2 and llama", "model");
}

}  // namespace longlora
