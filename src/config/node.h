#pragma once
// A configuration file as a tree with places, the same for YAML and JSON, and the list of problems that reading it collects.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "longlora/config/config_io.h"

namespace longlora {

struct FilePlace {
  std::string file;
  uint32_t line = 0, column = 0;   // 0: the file as a whole
  std::string text() const;        // "run.yaml:3:5"
};

/// Scalars keep their spelling: the field's type decides what they mean.
struct Node {
  enum class Kind { plain, quoted, literal, list, map };   // literal: JSON number, true, false or null
  struct Member;
  Kind kind = Kind::plain;
  std::string text;
  std::vector<Node> items;
  std::vector<Member> members;
  FilePlace place;

  bool is_scalar() const { return kind != Kind::list && kind != Kind::map; }
  bool is_null() const;            // null, ~ or nothing, not quoted
  std::string shown() const;       // for messages: "'abc'", "a list", "a mapping", "nothing"
};
struct Node::Member {
  std::string key;
  FilePlace place;                 // of the key
  Node value;
};

/// One problem: `key: what (place); advice`.
struct Issue {
  FilePlace place;
  std::string key, what, advice;
  std::string message() const;     // "what; advice"
};
using Issues = std::vector<Issue>;

/// nullopt after a syntax error; every problem goes to `issues`.
std::optional<Node> read_yaml(std::string_view text, const std::string& source, Issues& issues);
std::optional<Node> read_json(std::string_view text, const std::string& source, Issues& issues);

}  // namespace longlora
