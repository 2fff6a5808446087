#pragma once
// Bytes as ids: a tokenizer whose answers can be written down by hand. BOS 256, EOS 257; "<special>" is 258 when asked for.
#include <atomic>

#include "longlora/formats/token_file.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora {

class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256, kEos = 257, kSpecial = 258;
  explicit FakeTokenizer(bool adds_bos = false, int64_t vocab_size = 259, std::string_view name = "fake")
      : adds_bos_(adds_bos), vocab_size_(vocab_size) {
    digest_ = sha256(name);
  }
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const override {
    ++num_encoded;
    std::vector<int32_t> ids;
    constexpr std::string_view kMark = "<special>";
    for (size_t i = 0; i < text.size(); ++i) {
      if (options.parse_special && text.substr(i, kMark.size()) == kMark) {
        ids.push_back(kSpecial);
        i += kMark.size() - 1;
      } else {
        ids.push_back(static_cast<unsigned char>(text[i]));
      }
    }
    return ids;
  }
  std::string decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (const int32_t id : ids)
      if (id < 256) text += static_cast<char>(id);
    return text;
  }
  std::optional<int32_t> id_of(std::string_view) const override { return std::nullopt; }
  std::string token_of(int32_t id) const override { return std::to_string(id); }
  int64_t vocab_size() const override { return vocab_size_; }
  std::optional<int32_t> bos() const override { return kBos; }
  std::optional<int32_t> eos() const override { return has_eos ? std::optional(kEos) : std::nullopt; }
  bool adds_bos() const override { return adds_bos_; }
  bool adds_eos() const override { return false; }
  bool is_special(int32_t id) const override { return id >= 256; }

  bool has_eos = true;
  mutable std::atomic<int> num_encoded{0};

 private:
  bool adds_bos_;
  int64_t vocab_size_;
};

/// Ids of texts as documents, EOS after each.
inline std::vector<int32_t> documents_of(const std::vector<std::string>& texts, bool bos = false) {
  std::vector<int32_t> ids;
  for (const std::string& text : texts) {
    if (bos) ids.push_back(FakeTokenizer::kBos);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    ids.push_back(FakeTokenizer::kEos);
  }
  return ids;
}

inline std::vector<int32_t> all_ids(const TokenSource& source) {
  std::vector<int32_t> ids(source.num_tokens());
  source.read(0, ids);
  return ids;
}

}  // namespace longlora
