// The YAML of the configuration: libyaml's events, and nothing that makes a text mean more than it shows (no anchors, tags, merges).

#include <fmt/format.h>
#include <yaml.h>

#include <memory>
#include <unordered_map>

#include "config/node.h"
#include "longlora/core/error.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxDepth = 8;
constexpr size_t kMaxEvents = 100'000;

struct Parser {
  yaml_parser_t parser;
  explicit Parser(std::string_view text) {
    LONGLORA_INVARIANT(yaml_parser_initialize(&parser) == 1);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  }
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;
  ~Parser() { yaml_parser_delete(&parser); }
};

struct Event {
  yaml_event_t event{};
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { yaml_event_delete(&event); }
};

struct StopReading {};   // after a problem that leaves no tree to go on with; caught in read_yaml only

class YamlReader {
 public:
  YamlReader(std::string_view text, const std::string& source, Issues& issues) : parser_(text), source_(source), issues_(issues) {}

  std::optional<Node> document() {
    next();   // stream start
    next();
    if (type() == YAML_STREAM_END_EVENT)
      return problem({source_, 1, 1}, "the document is empty", "write at least the required keys"), std::nullopt;
    check_document_start();
    next();
    Node root = value(1);
    next();   // document end
    next();
    if (type() != YAML_STREAM_END_EVENT) problem(place(), "a second document begins", "keep one document in a file");
    if (root.kind == Node::Kind::map) return root;
    problem(root.place, root.is_null() ? "the document is empty" : fmt::format("found {}, expected a mapping", root.shown()),
            "write sections with keys, as `config print` shows them");
    return std::nullopt;
  }

 private:
  yaml_event_type_t type() const { return event_->event.type; }

  FilePlace place() const { return place_of(event_->event.start_mark); }
  FilePlace place_of(const yaml_mark_t& mark) const {
    return {source_, static_cast<uint32_t>(mark.line + 1), static_cast<uint32_t>(mark.column + 1)};
  }

  void problem(FilePlace where, std::string what, std::string advice) {
    issues_.push_back({std::move(where), "", std::move(what), std::move(advice)});
  }
  [[noreturn]] void stop(FilePlace where, std::string what, std::string advice) {
    problem(std::move(where), std::move(what), std::move(advice));
    throw StopReading{};
  }

  void next() {
    event_ = std::make_unique<Event>();
    if (++events_ > kMaxEvents) stop({source_, 0, 0}, fmt::format("more than {} YAML events", kMaxEvents), "give a configuration file");
    if (yaml_parser_parse(&parser_.parser, &event_->event) == 1) return;
    const yaml_parser_t& p = parser_.parser;
    const std::string problem = p.problem ? p.problem : "unreadable";
    stop(place_of(p.problem_mark), "not valid YAML: " + escape(problem, 100), "check indentation, quotes and brackets here");
  }

  void check_document_start() {
    const auto& start = event_->event.data.document_start;
    if (start.version_directive || start.tag_directives.start != start.tag_directives.end)
      problem(place(), "a YAML directive (%...) is not allowed", "remove the line");
  }

  /// Anchors and tags change what a text means; both are named and then ignored so that reading goes on.
  void check_properties(const yaml_char_t* anchor, const yaml_char_t* tag) {
    if (anchor) problem(place(), fmt::format("anchor '&{}' is not allowed", shown(anchor)), "write the value where it is needed");
    if (tag) problem(place(), fmt::format("tag '{}' is not allowed", shown(tag)), "remove it; the key decides the type");
  }
  static std::string shown(const yaml_char_t* text) { return escape(reinterpret_cast<const char*>(text), 40); }

  /// The value that the current event begins; the current event is its last one afterwards.
  Node value(size_t depth) {
    Node node;
    node.place = place();
    switch (type()) {
      case YAML_SCALAR_EVENT: scalar(node); break;
      case YAML_SEQUENCE_START_EVENT: list(node, depth); break;
      case YAML_MAPPING_START_EVENT: map(node, depth); break;
      case YAML_ALIAS_EVENT:
        problem(node.place, fmt::format("alias '*{}' is not allowed", shown(event_->event.data.alias.anchor)),
                "write the value itself");
        node.kind = Node::Kind::quoted;   // a stand-in: the problem above is reported already
        break;
      default: stop(node.place, "not valid YAML: a value is missing", "write a value");
    }
    return node;
  }

  void scalar(Node& node) {
    const auto& scalar = event_->event.data.scalar;
    check_properties(scalar.anchor, scalar.tag);
    node.kind = scalar.style == YAML_PLAIN_SCALAR_STYLE ? Node::Kind::plain : Node::Kind::quoted;
    node.text.assign(reinterpret_cast<const char*>(scalar.value), scalar.length);
  }

  void check_depth(size_t depth) {
    if (depth > kMaxDepth) stop(place(), fmt::format("nested deeper than {} levels", kMaxDepth), "no key needs that");
  }

  void list(Node& node, size_t depth) {
    check_depth(depth);
    check_properties(event_->event.data.sequence_start.anchor, event_->event.data.sequence_start.tag);
    node.kind = Node::Kind::list;
    for (next(); type() != YAML_SEQUENCE_END_EVENT; next()) node.items.push_back(value(depth + 1));
  }

  void map(Node& node, size_t depth) {
    check_depth(depth);
    check_properties(event_->event.data.mapping_start.anchor, event_->event.data.mapping_start.tag);
    node.kind = Node::Kind::map;
    std::unordered_map<std::string, FilePlace> seen;
    for (next(); type() != YAML_MAPPING_END_EVENT; next()) {
      Node key = value(depth + 1);
      next();
      Node::Member member{key.text, key.place, value(depth + 1)};
      if (is_good_key(key, seen)) node.members.push_back(std::move(member));
    }
  }

  bool is_good_key(const Node& key, std::unordered_map<std::string, FilePlace>& seen) {
    if (!key.is_scalar()) return problem(key.place, fmt::format("{} as a key", key.shown()), "keys are plain words"), false;
    if (key.kind == Node::Kind::plain && key.text == "<<")
      return problem(key.place, "merge key '<<' is not allowed", "use `preset`, or write the keys themselves"), false;
    const auto [first, is_new] = seen.try_emplace(key.text, key.place);
    if (!is_new)
      problem(key.place, fmt::format("duplicate key '{}', first at {}", escape(key.text, 60), first->second.text()),
              "remove one of the two");
    return is_new;
  }

  Parser parser_;
  std::string source_;
  Issues& issues_;
  std::unique_ptr<Event> event_;
  size_t events_ = 0;
};

FilePlace place_at(std::string_view text, size_t offset, const std::string& source) {
  FilePlace place{source, 1, 1};
  for (const char c : text.substr(0, offset)) {
    if (c == '\n') ++place.line, place.column = 1;
    else if ((static_cast<uint8_t>(c) & 0xc0) != 0x80) ++place.column;
  }
  return place;
}

/// Bytes that libyaml must not see, or that an editor would not show.
bool check_bytes(std::string_view text, const std::string& source, Issues& issues) {
  const auto refuse = [&](FilePlace place, std::string what, std::string advice) {
    issues.push_back({std::move(place), "", std::move(what), std::move(advice)});
    return false;
  };
  if (text.size() > kMaxBytes)
    return refuse({source, 0, 0}, fmt::format("{} bytes, at most {} allowed", text.size(), kMaxBytes), "give a configuration file");
  if (const auto bad = invalid_utf8_at(text)) return refuse(place_at(text, *bad, source), "invalid UTF-8", "save the file as UTF-8");
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t c = static_cast<uint8_t>(text[i]);
    if ((c < 0x20 && c != '\n' && c != '\t' && c != '\r') || c == 0x7f)
      return refuse(place_at(text, i, source), fmt::format("control character \\x{:02x}", c), "remove it");
  }
  return true;
}

}  // namespace

std::optional<Node> read_yaml(std::string_view text, const std::string& source, Issues& issues) {
  if (!check_bytes(text, source, issues)) return std::nullopt;
  try {
    return YamlReader(text, source, issues).document();
  } catch (const StopReading&) {
    return std::nullopt;
  }
}

}  // namespace longlora
