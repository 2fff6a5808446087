#pragma once
// Where the shipped configurations stand.

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace longlora {

/// LONGLORA_CONFIGS (from `environment`, else from the process), else configs/ beside the program, else the source tree's; nullopt: none.
std::optional<std::filesystem::path> presets_folder(const std::map<std::string, std::string>& environment);

}  // namespace longlora
