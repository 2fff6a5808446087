#include "tokenizer/json_steps.h"

#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace longlora {
namespace {

// "(?i:...)" is left out: this pattern is case-sensitive in GPT-2.
constexpr std::string_view kGpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/// Calls `read(step)` for every step of a possibly nested Sequence, whose members stand under `list_key`.
template <class F>
void for_each_step(const std::optional<JsonPlace>& part, std::string_view list_key, F&& read) {
  if (!part) return;
  if (part->at("type").string() != "Sequence") return read(*part);
  const JsonPlace list = part->at(list_key);
  for (size_t i = 0; i < list.array().size(); ++i) for_each_step(list.item(i), list_key, read);
}

[[noreturn]] void refuse_kind(const JsonPlace& step, const char* part) {
  const JsonPlace type = step.at("type");
  type.refuse(std::string(part) + " '" + type.string() + "' is not supported");
}

/// {"String": "..."} of Replace and Split; nullopt when it is a regular expression.
std::optional<std::string> literal_of(const JsonPlace& pattern) {
  const auto literal = pattern.find("String");
  if (!literal) return std::nullopt;
  if (literal->string().empty()) literal->refuse("empty pattern");
  return literal->string();
}

std::pair<std::string, std::string> read_replace(const JsonPlace& step) {
  const JsonPlace pattern = step.at("pattern");
  const auto from = literal_of(pattern);
  if (!from) pattern.refuse("Replace with a regular expression is not supported");
  return {*from, step.at("content").string()};
}

PrependScheme read_scheme(const JsonPlace& step) {
  const auto scheme = step.find("prepend_scheme");
  const bool adds = step.boolean_or("add_prefix_space", true);   // the older spelling, kept beside the newer one
  if (!scheme) return adds ? PrependScheme::always : PrependScheme::never;
  const std::string& name = scheme->string();
  if (name == "never") return PrependScheme::never;
  if (!adds) scheme->refuse("prepend_scheme '" + name + "' contradicts add_prefix_space false");
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  scheme->refuse("prepend_scheme '" + name + "' is not one of always, first, never");
}

std::string read_replacement(const JsonPlace& step) {
  const auto given = step.find("replacement");
  if (!given) return std::string(kMetaspace);
  const std::string& text = given->string();
  if (text.empty() || code_point_at(text, 0).bytes != text.size()) given->refuse("replacement must be one character");
  return text;
}

Delimiter read_behavior(const JsonPlace& step) {
  const JsonPlace behavior = step.at("behavior");
  if (behavior.string() == "Isolated") return Delimiter::isolated;
  if (behavior.string() == "Removed") return Delimiter::removed;
  behavior.refuse("Split with behavior '" + behavior.string() + "' is not supported");
}

PreTokenizer read_split(const JsonPlace& step) {
  const JsonPlace pattern = step.at("pattern");
  const Delimiter matches = read_behavior(step);
  const bool invert = step.boolean_or("invert", false);
  if (auto literal = literal_of(pattern)) return SplitLiteralStep{*std::move(literal), matches, invert};
  const JsonPlace regex = pattern.at("Regex");
  return SplitStep{Pattern(regex.string(), regex.where()), matches, invert};
}

void read_byte_level(const JsonPlace& step, std::vector<PreTokenizer>& out) {
  if (step.boolean_or("add_prefix_space", true)) out.emplace_back(PrefixSpaceStep{});
  if (step.boolean_or("use_regex", true)) out.emplace_back(SplitStep{Pattern(kGpt2Pattern, step.where()), Delimiter::isolated, false});
  out.emplace_back(ByteAlphabetStep{});
}

StripDecoder read_strip(const JsonPlace& step) {
  const JsonPlace content = step.at("content");
  const std::string& text = content.string();
  if (text.empty() || code_point_at(text, 0).bytes != text.size()) content.refuse("content must be one character");
  constexpr uint64_t kMaxStrip = 1u << 20;
  return {code_point_at(text, 0).value, step.at("start").unsigned_integer(kMaxStrip), step.at("stop").unsigned_integer(kMaxStrip)};
}

int32_t read_template_token(const JsonPlace& special, const JsonPlace& processor) {
  const std::string& name = special.at("id").string();
  const auto known = processor.find("special_tokens");
  const auto entry = known ? known->find(name) : std::nullopt;
  if (!entry) special.refuse("special token '" + name + "' is not among special_tokens");
  const JsonPlace ids = entry->at("ids");
  if (ids.array().size() != 1) ids.refuse("a special token of " + std::to_string(ids.array().size()) + " ids, expected one");
  return static_cast<int32_t>(ids.item(0).unsigned_integer(kMaxTokens - 1));
}

AroundText read_template(const JsonPlace& processor) {
  AroundText around;
  bool behind_text = false;
  const JsonPlace single = processor.at("single");
  for (size_t i = 0; i < single.array().size(); ++i) {
    const JsonPlace piece = single.item(i);
    if (const auto sequence = piece.find("Sequence")) {
      if (behind_text || sequence->at("id").string() != "A") sequence->refuse("a template must hold sequence A once");
      behind_text = true;
      continue;
    }
    auto& place = behind_text ? around.after : around.before;
    if (place) piece.refuse("more than one special token on one side of the text");
    place = read_template_token(piece.at("SpecialToken"), processor);
  }
  if (!behind_text) single.refuse("a template must hold sequence A once");
  return around;
}

}  // namespace

std::vector<Normalizer> read_normalizer(const std::optional<JsonPlace>& part) {
  std::vector<Normalizer> steps;
  for_each_step(part, "normalizers", [&](const JsonPlace& step) {
    const std::string& type = step.at("type").string();
    if (type == "Prepend") {
      steps.emplace_back(Prepend{step.at("prepend").string()});
    } else if (type == "Replace") {
      auto [from, to] = read_replace(step);
      steps.emplace_back(ReplaceLiteral{std::move(from), std::move(to)});
    } else {
      refuse_kind(step, "normalizer");
    }
  });
  return steps;
}

std::vector<PreTokenizer> read_pre_tokenizer(const std::optional<JsonPlace>& part) {
  std::vector<PreTokenizer> steps;
  for_each_step(part, "pretokenizers", [&](const JsonPlace& step) {
    const std::string& type = step.at("type").string();
    if (type == "Split") {
      steps.push_back(read_split(step));
    } else if (type == "Digits") {
      const char* pattern = step.boolean_or("individual_digits", false) ? "\\p{N}" : "\\p{N}+";
      steps.emplace_back(SplitStep{Pattern(pattern, step.where()), Delimiter::isolated, false});
    } else if (type == "ByteLevel") {
      read_byte_level(step, steps);
    } else if (type == "Metaspace") {
      steps.emplace_back(MetaspaceStep{read_replacement(step), read_scheme(step), step.boolean_or("split", true)});
    } else {
      refuse_kind(step, "pre_tokenizer");
    }
  });
  return steps;
}

std::vector<Decoder> read_decoder(const std::optional<JsonPlace>& part) {
  std::vector<Decoder> steps;
  for_each_step(part, "decoders", [&](const JsonPlace& step) {
    const std::string& type = step.at("type").string();
    if (type == "ByteLevel") {
      steps.emplace_back(ByteLevelDecoder{});
    } else if (type == "ByteFallback") {
      steps.emplace_back(ByteFallbackDecoder{});
    } else if (type == "Fuse") {
      steps.emplace_back(FuseDecoder{});
    } else if (type == "Strip") {
      steps.emplace_back(read_strip(step));
    } else if (type == "Replace") {
      auto [from, to] = read_replace(step);
      steps.emplace_back(ReplaceDecoder{std::move(from), std::move(to)});
    } else if (type == "Metaspace") {
      steps.emplace_back(MetaspaceDecoder{read_replacement(step), read_scheme(step)});
    } else {
      refuse_kind(step, "decoder");
    }
  });
  return steps;
}

AroundText read_post_processor(const std::optional<JsonPlace>& part) {
  AroundText around;
  for_each_step(part, "processors", [&](const JsonPlace& step) {
    const std::string& type = step.at("type").string();
    if (type == "ByteLevel") return;   // moves offsets only, which nobody asks for here
    if (type != "TemplateProcessing") refuse_kind(step, "post_processor");
    if (around.before || around.after) step.refuse("more than one TemplateProcessing");
    around = read_template(step);
  });
  return around;
}

AddedToken read_added_token(const JsonPlace& entry, std::optional<int32_t> id) {
  AddedToken token;
  token.id = id ? *id : static_cast<int32_t>(entry.at("id").unsigned_integer(kMaxTokens - 1));
  token.content = entry.at("content").string();
  if (token.content.empty()) entry.refuse("an added token without content");
  token.special = entry.boolean_or("special", false);
  token.single_word = entry.boolean_or("single_word", false);
  token.lstrip = entry.boolean_or("lstrip", false);
  token.rstrip = entry.boolean_or("rstrip", false);
  token.normalized = entry.boolean_or("normalized", !token.special);
  return token;
}

}  // namespace longlora
