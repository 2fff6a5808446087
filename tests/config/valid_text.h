#pragma once
// A complete small configuration for tests, and the same with one key changed.

#include <string>
#include <string_view>
#include <vector>

#include "longlora/config/config_io.h"

namespace longlora {

inline const std::string kValidYaml =
    "model: {path: models/tiny}\n"
    "data:\n"
    "  train: [{path: books.txt}]\n"
    "  sequence_length: 4096\n"
    "train: {steps: 100}\n"
    "output_dir: out/run\n";

inline TrainConfig valid_config() { return parse_config(kValidYaml, "valid.yaml").config; }

/// `key: value` as nested YAML in one line: "a.b" -> "a: {b: VALUE}".
inline std::string nested(std::string_view key, const std::string& value) {
  const size_t dot = key.find('.');
  if (dot == std::string_view::npos) return std::string(key) + ": " + value;
  return std::string(key.substr(0, dot)) + ": {" + nested(key.substr(dot + 1), value) + "}";
}

}  // namespace longlora
