#include "config/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "config/codec.h"
#include "config/key_index.h"

namespace longlora {

namespace {

/// Keys of which only one may be set; a later layer that sets one unsets the others.
constexpr std::array<std::array<std::string_view, 3>, 2> kRivals = {{
    {"attention.group_ratio", "attention.group_size", "attention.group_preset"},
    {"train.steps", "train.epochs", "train.epochs"},
}};

bool is_text_key(const std::string& key) {
  TrainConfig config;
  bool text = false;
  visit_fields([&](const Row& row, const auto& member, const auto&) {
    if (row.key == key) text = std::is_same_v<std::decay_t<decltype(member)>, std::string>;
  }, config);
  return text;
}

void move_to(Node& node, const FilePlace& place) {
  node.place = place;
  for (Node& item : node.items) move_to(item, place);
  for (Node::Member& member : node.members) member.place = place, move_to(member.value, place);
}

/// The node of a value given outside a file. Text is taken as it stands; lists and quoted scalars are YAML.
std::optional<Node> node_of_value(const std::string& key, const std::string& value, const FilePlace& place, Issues& issues) {
  const std::string_view text = trim(value);
  Node node;
  if (is_text_key(key)) {
    node.kind = Node::Kind::quoted;
    node.text = value;
  } else if (!text.empty() && std::string_view("[{\"'").find(text[0]) != std::string_view::npos) {
    Issues found;
    const std::optional<Node> root = read_yaml(fmt::format("value: {}", text), place.file, found);
    const bool whole = root && found.empty() && root->members.size() == 1;
    if (!whole) {
      const std::string what = found.empty() ? "is more than one value" : found.front().what;
      issues.push_back({place, key, what, "write one value, lists as [a, b]"});
      return std::nullopt;
    }
    node = root->members[0].value;
  } else {
    node.text = std::string(text);
  }
  move_to(node, place);
  return node;
}

}  // namespace

void Loader::apply_file(const Node& root, const std::string& origin) { apply_map(root, "", origin); }

void Loader::apply_map(const Node& map, const std::string& section, const std::string& origin) {
  for (const Node::Member& member : map.members) {
    const std::string name = section.empty() ? member.key : section + "." + member.key;
    const bool dotted = member.key.find('.') != std::string::npos;   // a.b is written as a section with a key
    if (!dotted && is_key(name)) {
      set(name, member.value, origin);
    } else if (!dotted && is_section(name)) {
      if (member.value.kind == Node::Kind::map) apply_map(member.value, name, origin);
      else if (!member.value.is_null())
        issues_.push_back({member.value.place, name, fmt::format("got {}, expected a section with keys", member.value.shown()),
                           fmt::format("write {}: {{key: value}}", name)});
    } else {
      report_unknown(section, member.key, member.place);
    }
  }
}

void Loader::apply_value(const std::string& key, const std::string& value, const FilePlace& place, const std::string& origin) {
  if (!is_key(key)) {
    const size_t dot = key.rfind('.');
    const std::string section = dot == std::string::npos ? "" : key.substr(0, dot);
    if (is_section(key))
      issues_.push_back({place, key, "is a section, not a key", fmt::format("set one of its keys, as {}.KEY=VALUE", key)});
    else report_unknown(section, dot == std::string::npos ? key : key.substr(dot + 1), place);
    return;
  }
  if (const std::optional<Node> node = node_of_value(key, value, place, issues_)) set(key, *node, origin);
  else mentioned_.insert(key), unreadable_.insert(key);
}

void Loader::set(const std::string& key, const Node& node, const std::string& origin) {
  bool good = false, present = false;
  visit_fields([&](const Row& row, auto& member, const auto& allowed) {
    if (row.key != key) return;
    good = read_value(node, member, allowed, ReadContext{key, row.absent, issues_});
    const JsonValue value = write_value(member);
    present = !value.is_null() && !(value.string() && *value.string() == "none");
  }, config_);
  mentioned_.insert(key);
  if (good) unreadable_.erase(key);
  else unreadable_.insert(key);
  if (!good) return;
  if (present) clear_rivals(key);
  sources_[key] = {node.place, origin.empty() ? node.place.text() : origin, layer_};
}

void Loader::clear_rivals(const std::string& key) {
  for (const auto& group : kRivals) {
    if (std::find(group.begin(), group.end(), key) == group.end()) continue;
    for (const std::string_view rival : group) {
      const auto source = sources_.find(std::string(rival));
      if (rival == key || source == sources_.end() || source->second.layer == layer_) continue;
      visit_fields([&](const Row& row, auto& member, const auto&) {
        if (row.key == rival) member = {};
      }, config_);
      sources_.erase(source);
    }
  }
}

void Loader::report_unknown(const std::string& section, const std::string& name, const FilePlace& place) {
  const std::vector<std::string> guesses = guesses_for(section, name);
  const std::string full = section.empty() ? name : section + "." + name;
  std::string advice = "see `longlora-train config schema` for all keys";
  if (!guesses.empty()) advice = fmt::format("did you mean '{}'?", fmt::join(guesses, "' or '"));
  else if (is_section(section)) {
    std::vector<std::string> names;
    for (const std::string& key : all_keys())
      if (key.starts_with(section + ".")) names.push_back(key.substr(section.size() + 1));
    advice = fmt::format("'{}' has {}", section, fmt::join(names, ", "));
  }
  issues_.push_back({place, escape(full, 80), "unknown key", advice});
  mentioned_.insert(guesses.begin(), guesses.end());   // no second message that the key it was meant to be is missing
}

Origins Loader::origins() const {
  Origins origins;
  for (const std::string& key : all_keys()) {
    const auto source = sources_.find(key);
    origins[key] = source == sources_.end() ? "default" : source->second.origin;
  }
  return origins;
}

FilePlace Loader::place_of(std::string_view key) const {
  const auto source = sources_.find(std::string(key));
  return source == sources_.end() ? default_place_ : source->second.place;
}

}  // namespace longlora
