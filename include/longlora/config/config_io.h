#pragma once
// Reading and printing the configuration. All problems of a file are reported together, each with file:line:column and, for an
// unknown key, the nearest one. Precedence: default < preset < file < environment LONGLORA_* < --set < dedicated flag.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longlora/config/train_config.h"

namespace longlora {

enum class ResumeClass { frozen, explicit_, free };

/// Where the value of a key came from: "default", "preset quickstart", "run.yaml:3:5", "LONGLORA_TRAIN__SEED", "--set", "--output-dir".
using Origins = std::map<std::string, std::string>;

struct Problem {
  std::string file;
  uint32_t line = 0, column = 0;
  std::string key, message;
};

struct Assignment { std::string key, value, origin; };   // value is parsed as a YAML scalar or flow list

struct LoadedConfig {
  TrainConfig config;
  Origins origins;
};

struct ConfigSources {
  std::optional<std::filesystem::path> file;             // .yaml, .yml or .json
  std::map<std::string, std::string> environment;        // LONGLORA_SECTION__KEY=value; others are ignored
  std::vector<Assignment> assignments;                   // --set and dedicated flags, in order
};

/// Reads and validates. Throws Error{config} whose details are "FILE:LINE:COLUMN: KEY: message" (at most 20); missing file: missing.
LoadedConfig load_config(const ConfigSources&);
/// The same without throwing: empty result = valid.
std::vector<Problem> validate_config(const ConfigSources&);
/// From text (tests). `source` names the place in messages.
LoadedConfig parse_config(std::string_view text, std::string_view source);

/// YAML with the origin of each value in comments (origins empty: no comments). Reading it back gives the same configuration.
std::string print_config(const TrainConfig&, const Origins& = {});
/// Canonical JSON: sorted keys, no white space; input of digests. With `only`: only keys of that class.
std::string canonical_json(const TrainConfig&);
std::string canonical_json(const TrainConfig&, ResumeClass only);
std::string config_schema();                             // JSON Schema draft-07
std::string config_markdown();                           // docs/config.md
struct KeyInfo { std::string key, default_text, allowed, help; ResumeClass resume; };
std::vector<KeyInfo> config_keys();                      // in table order
/// Value of one key as canonical text ("null" when absent).
std::string value_of(const TrainConfig&, std::string_view key);

struct KeyDifference { std::string key, old_value, new_value; ResumeClass resume; };
std::vector<KeyDifference> differing_keys(const TrainConfig& old_config, const TrainConfig& new_config);

struct Preset { std::string name, summary, path; };
std::vector<Preset> list_presets();                      // shipped configs/*.yaml (folder found beside the program or LONGLORA_CONFIGS)

/// LongLoRA's flags -> assignments; each translation yields a notice. Unknown flags: ErrorKind::usage.
struct LegacyTranslation { std::vector<Assignment> assignments; std::vector<std::string> notices; };
LegacyTranslation translate_legacy_flags(const std::vector<std::string>& arguments);

}  // namespace longlora
