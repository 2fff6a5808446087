#pragma once
// Small tokenizers for the tests of this module.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/json.h"
#include "longlora/tokenizer/tokenizer.h"
#include "support/temp_dir.h"
#include "tokenizer/model_proto.h"

namespace longlora {

using Ids = std::vector<int32_t>;

/// The members of tokenizer.json as JSON texts; each has a working default.
struct JsonParts {
  std::string added = "[]", normalizer = "null", pre_tokenizer = "null", post_processor = "null", decoder = R"({"type":"Fuse"})";
  std::string options;                                        // members of model in front of vocab, each with a comma behind it
  std::string vocab = R"({"a":0,"b":1,"c":2,"ab":3,"abc":4})";
  std::string merges = R"(["a b","ab c"])";
  std::string extra;                                          // further members, each with a comma behind it

  std::string text() const {
    return "{" + extra + "\"version\":\"1.0\",\"added_tokens\":" + added + ",\"normalizer\":" + normalizer + ",\"pre_tokenizer\":" +
           pre_tokenizer + ",\"post_processor\":" + post_processor + ",\"decoder\":" + decoder + ",\"model\":{\"type\":\"BPE\"," + options +
           "\"vocab\":" + vocab + ",\"merges\":" + merges + "}}";
  }
};

/// A vocabulary object with ids in order, and one of all printable ASCII characters.
inline std::string vocab_of(const std::vector<std::string>& tokens) {
  std::string out = "{";
  for (size_t i = 0; i < tokens.size(); ++i) out += (i ? "," : "") + json_quote(tokens[i]) + ":" + std::to_string(i);
  return out + "}";
}

inline std::unique_ptr<Tokenizer> load_text(const std::string& json, const std::string& config = "") {
  TempDir dir;
  dir.write("tokenizer.json", json);
  if (!config.empty()) dir.write("tokenizer_config.json", config);
  return load_tokenizer(dir.path());
}

inline std::unique_ptr<Tokenizer> load_model(const std::string& bytes, const std::string& config = "") {
  TempDir dir;
  dir.write("tokenizer.model", bytes);
  if (!config.empty()) dir.write("tokenizer_config.json", config);
  return load_tokenizer(dir.path());
}

inline std::vector<std::string> texts_of(const Tokenizer& tokenizer, const Ids& ids) {
  std::vector<std::string> out;
  for (const int32_t id : ids) out.push_back(tokenizer.token_of(id));
  return out;
}

/// A sentencepiece BPE model: <unk> <s> </s>, 256 bytes, then the given pieces with falling scores. Ids of pieces start at 259.
struct SmallModel {
  std::vector<std::string> texts;
  std::vector<PieceType> types;
  ModelProtoSpec spec;

  explicit SmallModel(const std::vector<std::string>& pieces, bool adds_dummy_prefix = true) {
    const auto add = [&](std::string text, PieceType type) { texts.push_back(std::move(text)), types.push_back(type); };
    add("<unk>", PieceType::unknown), add("<s>", PieceType::control), add("</s>", PieceType::control);
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      snprintf(name, sizeof name, "<0x%02X>", byte);
      add(name, PieceType::byte);
    }
    for (const std::string& piece : pieces) add(piece, PieceType::normal);
    spec.bos = 1, spec.eos = 2, spec.adds_dummy_prefix = adds_dummy_prefix;
  }
  std::string bytes() {
    spec.pieces.clear();
    for (size_t i = 0; i < texts.size(); ++i) spec.pieces.push_back({texts[i], i < 259 ? 0.0f : 259.0f - static_cast<float>(i), types[i]});
    return write_model_proto(spec);
  }
  TokenizerParts parts() const {
    TokenizerParts parts;
    parts.model = "llama";
    parts.tokens = texts;
    for (size_t i = 0; i < texts.size(); ++i) {
      parts.scores.push_back(i < 259 ? 0.0f : 259.0f - static_cast<float>(i));
      parts.types.push_back(static_cast<int32_t>(types[i]));
    }
    parts.bos = 1, parts.eos = 2, parts.unknown = 0;
    return parts;
  }
};

}  // namespace longlora
