#include "train/resume.h"

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "train/together.h"

namespace longlora {
namespace {

bool by_command_line(const Origins& origins, const std::string& key) {
  const auto it = origins.find(key);
  return it != origins.end() && it->second.starts_with("--");
}

/// The file may still hold the value from before an explicit change that was given by --set once.
bool is_former_value(const std::vector<LineageEntry>& lineage, const std::string& key, const std::string& value) {
  return std::any_of(lineage.begin(), lineage.end(), [&](const LineageEntry& e) { return e.key == key && e.old_value == value; });
}

[[noreturn]] void refuse(const std::vector<std::string>& lines, const std::string& paste, const TrainState& state) {
  const std::string what =
      std::to_string(lines.size()) + (lines.size() == 1 ? " setting differs" : " settings differ") + " from the saved run";
  const std::string action =
      paste.empty() ? "restore the old values, or start anew with another --output-dir" : "restore the old values, or confirm with" + paste;
  fail(ErrorKind::mismatch, what + ": " + lines.front(), "checkpoint of step " + std::to_string(state.step), action, lines);
}

}  // namespace

namespace {

std::optional<CheckpointFolder::Found> choose(CheckpointFolder& folder, const TrainRequest& request) {
  std::optional<CheckpointFolder::Found> found;
  if (request.resume == ResumeMode::automatic) {
    found = folder.choose();
  } else {
    found = CheckpointFolder::verify(request.resume_path);
    const std::vector<int64_t> steps = folder.steps();
    LONGLORA_CHECK(steps.empty() || steps.back() <= found->step, busy,
                   "step " + std::to_string(found->step) + " is older than step " + std::to_string(steps.empty() ? 0 : steps.back()) +
                       " of this output folder",
                   request.resume_path.string(), "choose another --output-dir");
  }
  return found;
}

}  // namespace

std::optional<ResumeState> choose_resume(CheckpointFolder* folder, const TrainRequest& request, dist::Communicator& ranks) {
  if (request.resume == ResumeMode::never) return std::nullopt;
  std::optional<CheckpointFolder::Found> found;
  on_root(ranks, [&] { found = choose(*folder, request); });
  const std::string path = root_text(ranks, found ? found->path.string() : "");
  const std::string manifest = root_text(ranks, found ? print_manifest(found->manifest) : "");
  if (path.empty()) return std::nullopt;
  std::optional<ResumeState> state;
  together(ranks, [&] {
    if (!found) found = CheckpointFolder::verify(path);
    LONGLORA_CHECK(print_manifest(found->manifest) == manifest, peer, "another checkpoint than rank 0's", path,
                   "put output_dir on storage that all hosts share");
    state = ResumeState{std::move(*found), {}};
    state->state = read_train_state(state->found);
  });
  return state;
}

MergedConfig merge_config(const LoadedConfig& wanted, const ConfigSources& sources, const TrainState& state) {
  const TrainConfig saved = parse_config(state.config_json, "state.json").config;
  MergedConfig merged{.lineage = state.lineage};
  std::vector<Assignment> kept;
  std::vector<std::string> lines;
  std::string paste;
  for (const KeyDifference& d : differing_keys(saved, wanted.config)) {
    const std::string line = d.key + ": " + d.old_value + " -> " + d.new_value;
    if (d.resume == ResumeClass::free) continue;
    if (d.resume == ResumeClass::frozen) {
      lines.push_back(line);
    } else if (by_command_line(wanted.origins, d.key)) {
      merged.lineage.push_back({state.step, d.key, d.old_value, d.new_value});
      merged.notices.push_back(line + " (from step " + std::to_string(state.step) + " on)");
    } else if (is_former_value(state.lineage, d.key, d.new_value)) {
      kept.push_back({d.key, d.old_value, "checkpoint"});
      merged.notices.push_back(d.key + ": " + d.old_value + " stays in force (set at an earlier start; the file says " + d.new_value + ")");
    } else {
      lines.push_back(line);
      paste += " --set " + d.key + "=" + d.new_value;
    }
  }
  if (!lines.empty()) refuse(lines, lines.size() == static_cast<size_t>(std::count(paste.begin(), paste.end(), '=')) ? paste : "", state);
  merged.loaded = wanted;
  if (kept.empty()) return merged;
  ConfigSources with_kept = sources;
  with_kept.assignments.insert(with_kept.assignments.end(), kept.begin(), kept.end());
  merged.loaded = load_config(with_kept);
  return merged;
}

void check_identity(const TrainState& state, const std::map<std::string, std::string>& identity,
                    const std::map<std::string, std::string>& now, bool deterministic) {
  std::vector<std::string> lines;
  for (const auto& [name, digest] : identity) {
    const auto old = state.identity.find(name);
    if (old == state.identity.end() || old->second != digest) {
      lines.push_back(name + ": " + (old == state.identity.end() ? "absent" : old->second) + " -> " + digest);
    }
  }
  for (const auto& [name, value] : now) {
    const auto old = state.fingerprint.find(name);
    if (old == state.fingerprint.end() || old->second == value) continue;
    if (name == "threads" || (deterministic && name != "program"))
      lines.push_back(name + ": " + old->second + " -> " + value);
    else
      log_warning("{} was {} when the checkpoint was written and is {} now: results may differ in the last bits", name, old->second, value);
  }
  if (!lines.empty()) refuse(lines, "", state);
}

}  // namespace longlora
