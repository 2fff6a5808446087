#include "config/codec.h"

#include <algorithm>

namespace longlora {

namespace {

std::string write_instead(const std::string& text) { return fmt::format("write {}", text); }

/// Advice for a scalar that is no number of this kind, or "" when none is better than what is allowed.
std::string advice_for_number(const Node& node, Unit unit, bool integer) {
  if (!node.is_scalar()) return {};
  const std::string& text = node.text;
  if (node.kind == Node::Kind::quoted) {
    const bool reads = integer ? integer_of(text, unit).has_value() : real_of(text).has_value();
    return reads ? fmt::format("write {} without quotes", escape(text, 40)) : std::string();
  }
  if (text == ".inf" || text == "-.inf" || text == ".nan" || text == "inf" || text == "nan") return "write a finite decimal number";
  if (const auto meant = intended_number(text, unit, integer)) return write_instead(*meant);
  return {};
}

std::vector<std::string> words_of(std::string_view list) {
  std::vector<std::string> words = split(list, ',');
  for (std::string& word : words) word = std::string(trim(word));
  return words;
}

bool is_number_scalar(const Node& node) { return node.kind == Node::Kind::plain || node.kind == Node::Kind::literal; }

}  // namespace

std::string advice_for_word(std::string_view word, const std::vector<std::string>& choices) {
  const size_t limit = std::min<size_t>(2, word.empty() ? 0 : word.size() - 1);
  if (const auto close = nearest(word, choices, limit)) return fmt::format("did you mean '{}'?", *close);
  return fmt::format("choose one of {}", fmt::join(choices, ", "));
}

bool read_value(const Node& node, int64_t& value, const Integers& allowed, const ReadContext& context) {
  const auto number = is_number_scalar(node) ? integer_of(node.text, allowed.unit) : std::nullopt;
  if (!number) return context.refuse_type(node, allowed.text(), advice_for_number(node, allowed.unit, true));
  if (*number < allowed.low || *number > allowed.high)
    return context.refuse_type(node, allowed.text(), fmt::format("give a value from {} to {}", allowed.low, allowed.high));
  if (allowed.even && *number % 2 != 0)
    return context.refuse(node, fmt::format("got {}, must be even", *number), fmt::format("use {} or {}", *number - 1, *number + 1));
  value = *number;
  return true;
}

bool read_value(const Node& node, double& value, const Reals& allowed, const ReadContext& context) {
  const auto number = is_number_scalar(node) ? real_of(node.text) : std::nullopt;
  if (!number) return context.refuse_type(node, allowed.text(), advice_for_number(node, Unit::none, false));
  if (!allowed.holds(*number)) return context.refuse_type(node, allowed.text());
  value = *number + 0.0;   // -0 becomes 0: both would print alike and digest differently
  return true;
}

bool read_value(const Node& node, bool& value, const Words& allowed, const ReadContext& context) {
  const std::string expected = describe(&value, allowed);
  const bool is_boolean = is_number_scalar(node) && (node.text == "true" || node.text == "false");
  if (is_boolean) return value = node.text == "true", true;
  if (!node.is_scalar()) return context.refuse_type(node, expected);
  const auto meant = intended_boolean(node.text);
  const bool only_quotes = node.kind == Node::Kind::quoted && (node.text == "true" || node.text == "false");
  return context.refuse_type(node, expected, meant ? write_instead(*meant) + (only_quotes ? " without quotes" : "") : std::string());
}

bool read_value(const Node& node, std::string& value, const Text& allowed, const ReadContext& context) {
  const std::string expected = describe(&value, allowed);
  const bool is_text = node.kind == Node::Kind::quoted || node.kind == Node::Kind::plain;
  if (!is_text || node.is_null()) return context.refuse_type(node, expected);
  if (allowed.required && node.text.empty()) return context.refuse(node, "is empty, expected " + expected, "give a value");
  if (!allowed.choices.empty()) {
    const std::vector<std::string> choices = words_of(allowed.choices);
    if (std::find(choices.begin(), choices.end(), node.text) == choices.end())
      return context.refuse_type(node, expected, advice_for_word(node.text, choices));
  }
  value = node.text;
  return true;
}

namespace {

bool read_entry(const Node& node, DataEntry& entry, const ReadContext& context) {
  if (node.kind != Node::Kind::map)
    return context.refuse_type(node, "a mapping with 'path'",
                               node.is_scalar() ? fmt::format("write {{path: {}}}", escape(node.text, 60)) : "");
  bool good = true, has_path = false;
  std::vector<std::string> names;
  visit_entry([&](const Row& row, const auto&, const auto&) { names.emplace_back(row.key); }, entry);
  for (const Node::Member& member : node.members) {
    bool known = false;
    const ReadContext inner{context.key + "." + member.key, "none", context.issues};
    visit_entry(
        [&](const Row& row, auto& field, const auto& allowed) {
          if (row.key != member.key) return;
          known = true;
          good = read_value(member.value, field, allowed, inner) && good;
        },
        entry);
    has_path = has_path || member.key == "path";
    if (known) continue;
    good = false;
    context.issues.push_back({member.place, context.key, fmt::format("unknown key '{}' of an entry", escape(member.key, 40)),
                              advice_for_word(member.key, names)});
  }
  if (!has_path) return context.refuse(node, "an entry has no 'path'", "add path: FILE, FOLDER or GLOB");
  return good;
}

}  // namespace

bool read_value(const Node& node, std::vector<DataEntry>& value, const Entries& allowed, const ReadContext& context) {
  if (node.kind != Node::Kind::list) return context.refuse_type(node, describe(&value, allowed), "write [{path: FILE}]");
  std::vector<DataEntry> entries;
  bool good = true;
  for (const Node& item : node.items) good = read_entry(item, entries.emplace_back(), context) && good;
  if (good) value = std::move(entries);
  return good;
}

JsonValue write_value(const DataEntry& entry) {
  JsonValue::Object members;
  visit_entry(
      [&](const Row& row, const auto& field, const auto&) {
        members.emplace_back(std::string(row.key), write_value(field));
      },
      entry);
  return json_of(std::move(members));
}

}  // namespace longlora
