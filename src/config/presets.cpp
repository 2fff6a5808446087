#include "config/presets.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "longlora/config/config_io.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

constexpr uint64_t kMaxPresetBytes = uint64_t{1} << 20;

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// The first comment line of a preset says what it is.
std::string summary_of(const fs::path& file) {
  const std::string text = read_file(file, kMaxPresetBytes);
  const std::string first = split(text, '\n').front();
  return first.starts_with('#') ? std::string(trim(std::string_view(first).substr(1))) : std::string();
}

}  // namespace

std::optional<fs::path> presets_folder(const std::map<std::string, std::string>& environment) {
  const auto given = environment.find("LONGLORA_CONFIGS");
  if (given != environment.end()) return fs::path(given->second);
  if (const char* const variable = std::getenv("LONGLORA_CONFIGS"); variable && *variable) return fs::path(variable);
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  const fs::path source_tree = fs::path(__FILE__).parent_path() / "../..";
  for (const fs::path& parent : {program / "..", program / "../..", program / "../share/longlora-train", source_tree})
    if (is_folder(parent / "configs")) return (parent / "configs").lexically_normal();
  return std::nullopt;
}

std::vector<Preset> list_presets() {
  std::vector<Preset> presets;
  const std::optional<fs::path> folder = presets_folder({});
  if (!folder || !is_folder(*folder)) return presets;
  for (const fs::directory_entry& entry : fs::directory_iterator(*folder))
    if (entry.path().extension() == ".yaml")
      presets.push_back({entry.path().stem().string(), summary_of(entry.path()), entry.path().string()});
  std::sort(presets.begin(), presets.end(), [](const Preset& a, const Preset& b) { return a.name < b.name; });
  return presets;
}

}  // namespace longlora
