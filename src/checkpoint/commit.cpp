#include "longlora/checkpoint/commit.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "checkpoint/folder_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

constexpr std::string_view kManifestName = "MANIFEST.json";
constexpr uint64_t kMaxManifestBytes = uint64_t{16} << 20;
constexpr size_t kReadBytes = size_t{1} << 20;
constexpr size_t kStepDigits = 10;

std::string step_name(int64_t step) { return fmt::format("step-{:010d}", step); }
std::string owned_name(std::string_view prefix, int64_t step) { return fmt::format("{}-{:010d}-{}", prefix, step, process_nonce()); }

std::optional<int64_t> step_of(std::string_view name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix) || name.size() < prefix.size() + kStepDigits) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0 || step_name(step) != name) return std::nullopt;
  return step;
}

std::vector<int64_t> steps_in(const fs::path& folder) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(folder)) {
    if (const auto step = step_of(name)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

[[noreturn]] void damaged(std::string what, const fs::path& where) {
  fail(ErrorKind::data, std::move(what), where.string(), "use an older checkpoint (--resume auto does)");
}

/// Damage makes the next lower step the candidate; a failing disk or a missing right must not.
bool is_damage(const Error& error) { return error.kind == ErrorKind::data || error.kind == ErrorKind::missing; }

void verify_file(const fs::path& folder, const ManifestFile& listed) {
  const InputFile file = InputFile::open_in(folder, listed.name);
  if (file.size() != listed.bytes) {
    damaged(fmt::format("damaged checkpoint: the file has {} bytes, the manifest says {}", file.size(), listed.bytes),
            folder / listed.name);
  }
  Sha256 hash;
  std::vector<std::byte> buffer(std::min<uint64_t>(kReadBytes, file.size()));
  for (uint64_t offset = 0; offset < file.size();) {
    const auto piece = std::span(buffer).first(std::min<uint64_t>(buffer.size(), file.size() - offset));
    file.read(offset, piece);
    hash.update(piece);
    offset += piece.size();
  }
  if (hash.finish() != listed.digest) damaged("damaged checkpoint: the file's SHA-256 is not the manifest's", folder / listed.name);
}

/// The folder holds the manifest and the listed files, nothing else.
void verify_names(const fs::path& folder, const std::vector<ManifestFile>& files, bool with_manifest) {
  std::vector<std::string> expected;
  for (const ManifestFile& file : files) expected.push_back(file.name);
  if (with_manifest) expected.emplace_back(kManifestName);
  std::sort(expected.begin(), expected.end());
  const std::vector<std::string> found = names_in(folder);
  std::vector<std::string> difference;
  std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(difference));
  if (!difference.empty()) damaged("damaged checkpoint: a file is missing", folder / difference.front());
  std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(), std::back_inserter(difference));
  if (!difference.empty()) damaged("damaged checkpoint: a file is not in the manifest", folder / difference.front());
}

struct Search {
  std::optional<CheckpointFolder::Found> found;
  std::vector<std::pair<int64_t, std::string>> damaged;  // above the found one
};

Search search(const fs::path& folder) {
  Search result;
  std::vector<int64_t> steps = steps_in(folder);
  std::reverse(steps.begin(), steps.end());
  for (const int64_t step : steps) {
    try {
      result.found = CheckpointFolder::verify(folder / step_name(step));
      return result;
    } catch (const Error& error) {
      if (!is_damage(error)) throw;
      result.damaged.emplace_back(step, fmt::format("{} ({})", error.what_happened, error.where));
    }
  }
  if (result.damaged.empty()) return result;
  std::vector<std::string> details;
  for (const auto& [step, text] : result.damaged) details.push_back(text);
  const size_t count = details.size();
  fail(ErrorKind::no_checkpoint, fmt::format("{} checkpoints exist and none is complete", count), folder.string(),
       "restore one from a copy, or start anew with another output_dir; nothing was deleted", std::move(details));
}

void write_manifest(const fs::path& folder, const Manifest& manifest) {
  OutputFile file = OutputFile::create(folder / kManifestName);
  file.write_all(print_manifest(manifest));
  file.sync();
  file.close();
  sync_folder(folder);
}

bool is_already_saved(const fs::path& step_folder, const std::string& chain) {
  try {
    return CheckpointFolder::verify(step_folder).manifest.chain == chain;
  } catch (const Error& error) {
    if (!is_damage(error)) throw;
    return false;
  }
}

}  // namespace

CheckpointFolder::CheckpointFolder(fs::path folder) : folder_(std::move(folder)) {
  create_folders(folder_);
  const std::string own = "-" + process_nonce();
  for (const std::string& name : names_in(folder_)) {
    const bool is_leftover = name.starts_with("tmp-") || name.starts_with("trash-");
    if (is_leftover && !name.ends_with(own)) remove_folder_quietly(folder_ / name);
  }
}

fs::path CheckpointFolder::commit(int64_t step, const std::string& chain,
                                  const std::function<std::vector<ManifestFile>(const fs::path&)>& fill) {
  LONGLORA_INVARIANT(step >= 0);
  const fs::path pending = folder_ / owned_name("tmp", step), target = folder_ / step_name(step);
  make_folder(pending);
  try {
    Manifest manifest{.step = step, .chain = chain, .files = fill(pending)};
    verify_names(pending, manifest.files, false);
    sync_folder(pending);  // names of the files before the manifest that vouches for them
    write_manifest(pending, manifest);
    rename_noreplace(pending, target);  // the single instant of commit
  } catch (const Error& error) {
    remove_folder_quietly(pending);
    if (error.kind != ErrorKind::busy || !is_already_saved(target, chain)) throw;
  } catch (...) {
    remove_folder_quietly(pending);
    throw;
  }
  sync_folder(folder_);  // without it the rename can be lost with the power
  std::erase(verified_, step);
  verified_.push_back(step);
  return target;
}

void CheckpointFolder::rotate(int64_t keep) {
  std::vector<int64_t> kept = verified_;
  std::sort(kept.begin(), kept.end());
  keep = std::max<int64_t>(keep, 1);
  if (static_cast<int64_t>(kept.size()) < keep) return;
  const int64_t oldest_kept = kept[kept.size() - static_cast<size_t>(keep)];
  try {
    for (const int64_t step : steps_in(folder_)) {
      if (step >= oldest_kept) break;
      const fs::path trash = folder_ / owned_name("trash", step);
      std::erase(verified_, step);
      rename_noreplace(folder_ / step_name(step), trash);
      sync_folder(folder_);  // the name is gone for good before the content goes
      remove_folder(trash);
    }
  } catch (const std::exception& error) {
    log_warning("old checkpoints were not deleted: {}", error.what());
  }
}

std::optional<CheckpointFolder::Found> CheckpointFolder::choose() {
  Search result = search(folder_);
  if (!result.found) return std::nullopt;
  for (const auto& [step, text] : result.damaged) {
    const fs::path bad = folder_ / owned_name("bad", step);
    rename_noreplace(folder_ / step_name(step), bad);
    log_warning("step {} is damaged and kept as {}: {}", step, bad.filename().string(), text);
  }
  if (!result.damaged.empty()) sync_folder(folder_);
  std::erase(verified_, result.found->step);
  verified_.push_back(result.found->step);
  return result.found;
}

std::optional<CheckpointFolder::Found> CheckpointFolder::latest(const fs::path& folder) {
  Search result = search(folder);
  for (const auto& [step, text] : result.damaged) log_warning("step {} is damaged, a lower one is used: {}", step, text);
  return result.found;
}

CheckpointFolder::Found CheckpointFolder::verify(const fs::path& step_folder) {
  fs::path folder = step_folder;
  if (!folder.has_filename()) folder = folder.parent_path();  // "step-0000000100/"
  if (!exists_without_following(folder / kManifestName)) damaged("damaged checkpoint: a file is missing", folder / kManifestName);
  const InputFile file = InputFile::open_in(folder, std::string(kManifestName));
  const std::string place = (folder / kManifestName).string();
  LONGLORA_CHECK(file.size() <= kMaxManifestBytes, data, "damaged manifest: larger than 16 MiB", place, "use an older checkpoint");
  Found found{.step = 0, .path = folder, .manifest = parse_manifest(file.read_text(0, file.size()), place)};
  found.step = found.manifest.step;
  const auto named_step = step_of(folder.filename().string());
  if (named_step && *named_step != found.step) {
    damaged(fmt::format("damaged checkpoint: the manifest is of step {}, the folder of step {}", found.step, *named_step), place);
  }
  verify_names(folder, found.manifest.files, true);
  for (const ManifestFile& listed : found.manifest.files) verify_file(folder, listed);
  return found;
}

std::vector<int64_t> CheckpointFolder::steps() const { return steps_in(folder_); }

}  // namespace longlora
