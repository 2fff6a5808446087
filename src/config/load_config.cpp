#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <system_error>

#include "config/checks.h"
#include "config/key_index.h"
#include "config/loader.h"
#include "config/presets.h"
#include "longlora/config/config_io.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;
constexpr std::string_view kPrefix = "LONGLORA_";

/// Missing: 66. Anything that is there and cannot be a configuration: 78.
std::string read_config_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  const auto unfit = [&](std::string what) { fail(ErrorKind::config, std::move(what), path.string(), "give a .yaml or .json file"); };
  if (fs::is_directory(status)) unfit("is a folder, expected a configuration file");
  if (fs::exists(status) && !fs::is_regular_file(status)) unfit("is no regular file, expected a configuration file");
  if (const auto bytes = fs::is_regular_file(status) ? fs::file_size(path, error) : 0; bytes > kMaxConfigBytes)
    unfit(fmt::format("has {} bytes, at most {} allowed", bytes, kMaxConfigBytes));
  return read_file(path, kMaxConfigBytes);
}

std::optional<Node> read_text(std::string_view text, const std::string& source, Issues& issues) {
  return source.ends_with(".json") ? read_json(text, source, issues) : read_yaml(text, source, issues);
}

/// "train.seed" for LONGLORA_TRAIN__SEED; nullopt for variables that set no key (LONGLORA_CONFIGS).
std::optional<std::string> key_of_variable(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::string key = name.substr(kPrefix.size());
  for (size_t at; (at = key.find("__")) != std::string::npos;) key.replace(at, 2, ".");
  for (char& c : key) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool has_section = key.find('.') != std::string::npos;
  return has_section || is_key(key) ? std::optional(key) : std::nullopt;
}

std::string shown_assignment(const Assignment& assignment) {
  return assignment.origin == "--set" ? fmt::format("--set {}={}", assignment.key, escape(assignment.value, 40)) : assignment.origin;
}

class Load {
 public:
  explicit Load(const ConfigSources& sources) : sources_(sources), loader_(issues) {}

  Issues issues;

  LoadedConfig from_file() {
    std::optional<Node> root;
    if (sources_.file) {
      const std::string source = sources_.file->string();
      root = read_text(read_config_file(*sources_.file), source, issues);
      loader_.set_default_place({source, 0, 0});
    }
    return finish(root, !sources_.file || root.has_value());
  }

  LoadedConfig from_text(std::string_view text, std::string_view source) {
    const std::optional<Node> root = read_text(text, std::string(source), issues);
    loader_.set_default_place({std::string(source), 0, 0});
    return finish(root, root.has_value());
  }

 private:
  /// Layers in order of precedence, then the rules between keys.
  LoadedConfig finish(const std::optional<Node>& root, bool complete) {
    apply_preset(root);
    loader_.begin_layer();
    if (root) loader_.apply_file(*root);
    loader_.begin_layer();
    for (const auto& [name, value] : sources_.environment)
      if (const auto key = key_of_variable(name)) loader_.apply_value(*key, value, {name, 0, 0}, name);
    loader_.begin_layer();
    for (const Assignment& a : sources_.assignments)
      loader_.apply_value(a.key, a.value, {shown_assignment(a), 0, 0}, a.origin.empty() ? "--set" : a.origin);
    Checks checks(loader_.config(), issues, [&](std::string_view key) { return loader_.place_of(key); }, loader_.unreadable());
    if (complete) checks.check_required(loader_.mentioned());
    checks.run();
    return {loader_.config(), loader_.origins()};
  }

  /// The name that the strongest source gives, and its place.
  std::pair<std::string, FilePlace> preset_name(const std::optional<Node>& root) const {
    for (auto a = sources_.assignments.rbegin(); a != sources_.assignments.rend(); ++a)
      if (a->key == "preset") return {a->value, {shown_assignment(*a), 0, 0}};
    for (const auto& [name, value] : sources_.environment)
      if (key_of_variable(name) == "preset") return {value, {name, 0, 0}};
    if (root)
      for (const Node::Member& member : root->members)
        if (member.key == "preset" && member.value.is_scalar() && !member.value.is_null()) return {member.value.text, member.value.place};
    return {};
  }

  void apply_preset(const std::optional<Node>& root) {
    const auto [name, place] = preset_name(root);
    if (name.empty() || name == "none") return;
    const std::vector<std::string> names = preset_names();
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      const auto close = nearest(name, names);
      issues.push_back({place, "preset", fmt::format("'{}' is not a preset", escape(name, 40)),
                        close ? fmt::format("did you mean '{}'?", *close) : fmt::format("choose one of {}", fmt::join(names, ", "))});
      return;
    }
    const fs::path file = *presets_folder(sources_.environment) / (name + ".yaml");
    const std::optional<Node> preset = read_yaml(read_config_file(file), file.string(), issues);
    if (preset) loader_.apply_file(*preset, "preset " + name);
  }

  std::vector<std::string> preset_names() const {
    std::vector<std::string> names;
    const std::optional<fs::path> folder = presets_folder(sources_.environment);
    std::error_code ignored;
    if (!folder || !fs::is_directory(*folder, ignored)) return names;
    for (const fs::directory_entry& entry : fs::directory_iterator(*folder))
      if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  const ConfigSources& sources_;
  Loader loader_;
};

}  // namespace

LoadedConfig load_config(const ConfigSources& sources) {
  Load load(sources);
  LoadedConfig loaded = load.from_file();
  raise_issues(load.issues);
  return loaded;
}

std::vector<Problem> validate_config(const ConfigSources& sources) {
  Load load(sources);
  load.from_file();
  std::vector<Problem> problems;
  for (const Issue& issue : load.issues) problems.push_back(problem_of(issue));
  return problems;
}

LoadedConfig parse_config(std::string_view text, std::string_view source) {
  const ConfigSources none;
  Load load(none);
  LoadedConfig loaded = load.from_text(text, source);
  raise_issues(load.issues);
  return loaded;
}

}  // namespace longlora
