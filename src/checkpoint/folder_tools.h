#pragma once
// Folder operations of the commit protocol whose failures carry an errno: shared by commit, pending_folder and the readers. Torch-free.
#include <filesystem>
#include <string>
#include <vector>

namespace longlora {

/// Names in a folder, sorted. An unreadable folder throws by errno.
std::vector<std::string> names_in(const std::filesystem::path& folder);
/// One new folder; existing: ErrorKind::busy, other failures by errno.
void make_folder(const std::filesystem::path&);
/// Deletes a folder and everything in it without following links; a vanished entry is not an error.
void remove_folder(const std::filesystem::path&);
/// remove_folder whose failure is a warning.
void remove_folder_quietly(const std::filesystem::path&) noexcept;
bool exists_without_following(const std::filesystem::path&);

}  // namespace longlora
