#include "config/json_edit.h"

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {

namespace {

/// Walks text that is known to be valid JSON.
struct Walker {
  std::string_view text;
  size_t at = 0;

  std::string_view space() {
    const size_t start = at;
    while (at < text.size() && std::string_view(" \t\r\n").find(text[at]) != std::string_view::npos) ++at;
    return text.substr(start, at - start);
  }
  void string() {
    for (++at; text.at(at) != '"'; ++at) {
      if (text[at] == '\\') ++at;
    }
    ++at;
  }
  std::string_view value() {
    const size_t start = at;
    size_t depth = 0;
    do {
      const char c = text.at(at);
      if (c == '"') {
        string();
      } else if (c == '{' || c == '[') {
        ++depth;
        ++at;
      } else if (c == '}' || c == ']') {
        --depth;
        ++at;
      } else if (depth > 0) {
        ++at;
      } else {
        while (std::string_view(",} \t\r\n").find(text.at(at)) == std::string_view::npos) ++at;
      }
    } while (depth > 0);
    return text.substr(start, at - start);
  }
};

}  // namespace

JsonTextEdit::JsonTextEdit(std::string_view text) {
  const JsonValue root = parse_json(text, "config.json");
  LONGLORA_INVARIANT(root.object());
  Walker walk{text};
  if (text.starts_with("\xef\xbb\xbf")) walk.at = 3;
  walk.space();
  ++walk.at;  // '{'
  before_ = text.substr(0, walk.at);
  for (const auto& [key, unused] : *root.object()) {
    Member member{.key = key};
    member.lead = walk.space();
    const size_t start = walk.at;
    walk.string();
    walk.space();
    ++walk.at;  // ':'
    walk.space();
    member.key_text = text.substr(start, walk.at - start);
    member.value = walk.value();
    const size_t after_value = walk.at;
    walk.space();
    if (text.at(walk.at) == ',')
      ++walk.at;
    else
      walk.at = after_value;
    members_.push_back(std::move(member));
  }
  after_ = text.substr(walk.at);
}

const JsonTextEdit::Member* JsonTextEdit::find(std::string_view key) const {
  const auto at = std::find_if(members_.begin(), members_.end(), [&](const Member& m) { return m.key == key; });
  return at == members_.end() ? nullptr : &*at;
}

void JsonTextEdit::set(std::string_view key, std::string value) {
  if (const Member* present = find(key)) {
    members_[static_cast<size_t>(present - members_.data())].value = std::move(value);
    return;
  }
  const bool is_first = members_.empty();
  Member member{.key = std::string(key),
                .lead = is_first ? "\n  " : members_.front().lead,
                .key_text = json_quote(key) + ": ",
                .value = std::move(value)};
  if (is_first) after_ = "\n}\n";
  members_.push_back(std::move(member));
}

void JsonTextEdit::remove(std::string_view key) {
  std::erase_if(members_, [&](const Member& m) { return m.key == key; });
}

std::string JsonTextEdit::text() const {
  std::string out = before_;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    out += (i == 0 ? "" : ",") + m.lead + m.key_text + m.value;
  }
  return out + after_;
}

}  // namespace longlora
