#include "tokenizer/decoders.h"

#include <optional>
#include <string_view>
#include <utility>

#include "longlora/core/text.h"
#include "tokenizer/unicode.h"

namespace longlora {
namespace {

using Texts = std::vector<std::string>;

std::string join(const Texts& texts, std::string_view separator = {}) {
  std::string out;
  for (size_t i = 0; i < texts.size(); ++i) (out += i ? separator : std::string_view{}) += texts[i];
  return out;
}

/// The bytes a text of the byte alphabet stands for; a text with any other character stands for itself.
void append_bytes_of(std::string_view text, std::string& out) {
  const size_t before = out.size();
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const int byte = byte_of_char(c.value);
    if (byte < 0) {
      out.resize(before);
      out += text;
      return;
    }
    out += static_cast<char>(byte);
    at += c.bytes;
  }
}

Texts apply(const ByteLevelDecoder&, Texts texts) {
  std::string bytes;
  for (const std::string& text : texts) append_bytes_of(text, bytes);
  return {lossy_utf8(bytes)};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::optional<char> fallback_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  const int high = hex_digit(text[3]), low = hex_digit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

Texts apply(const ByteFallbackDecoder&, Texts texts) {
  Texts out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (!invalid_utf8_at(run)) out.push_back(run);
    else out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
    run.clear();
  };
  for (std::string& text : texts) {
    if (const auto byte = fallback_byte(text)) {
      run += *byte;
    } else {
      flush();
      out.push_back(std::move(text));
    }
  }
  flush();
  return out;
}

Texts apply(const FuseDecoder&, Texts texts) { return {join(texts)}; }

Texts apply(const StripDecoder& step, Texts texts) {
  std::string content;
  append_utf8(content, step.content);
  for (std::string& text : texts) {
    std::string_view rest = text;
    for (size_t i = 0; i < step.start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
    for (size_t i = 0; i < step.stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
    text = std::string(rest);
  }
  return texts;
}

Texts apply(const ReplaceDecoder& step, Texts texts) {
  for (std::string& text : texts) text = replace_all(text, step.from, step.to);
  return texts;
}

Texts apply(const MetaspaceDecoder& step, Texts texts) {
  for (size_t i = 0; i < texts.size(); ++i) {   // in the first text the prefix vanishes
    texts[i] = replace_all(texts[i], step.replacement, i == 0 && step.scheme != PrependScheme::never ? "" : " ");
  }
  return texts;
}

}  // namespace

std::string run_decoders(const std::vector<Decoder>& steps, Texts texts) {
  if (steps.empty()) return join(texts, " ");
  for (const Decoder& step : steps) {
    texts = std::visit([&](const auto& s) { return apply(s, std::move(texts)); }, step);
  }
  return join(texts);
}

}  // namespace longlora
