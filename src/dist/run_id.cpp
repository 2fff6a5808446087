#include "dist/run_id.h"

#include <unistd.h>

#include <charconv>
#include <fstream>

#include "longlora/core/hash.h"

namespace longlora::dist {
namespace {

constexpr size_t kMaxIdBytes = 64;  // it becomes a file name and part of a socket's path, which has 108 bytes

std::string hashed(std::string_view kind, const std::string& text) { return std::string(kind) + "-" + to_hex(sha256(text)).substr(0, 32); }

/// The text itself where it can be a file name, else a hash of it.
std::string as_id(const std::string& text) {
  constexpr const char* kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  const bool usable =
      !text.empty() && text.size() <= kMaxIdBytes && text.front() != '.' && text.find_first_not_of(kAllowed) == std::string::npos;
  return usable ? text : hashed("id", text);
}

}  // namespace

std::string find_run_id(const LaunchInfo& info, const Variables& v, std::string_view output_dir, const ParentProcess& parent) {
  if (const auto id = v.text("LONGLORA_RUN_ID")) {
    if (id->empty()) refuse_launch(v.show("LONGLORA_RUN_ID") + " is empty", "set it to one value on all ranks, or unset it");
    return as_id(*id);
  }
  if (info.source == LaunchSource::torchrun && v.has("TORCHELASTIC_RUN_ID")) {
    std::string id = *v.text("TORCHELASTIC_RUN_ID");
    // torchrun's default for every run: the port tells two of them on one host apart
    if (id == "none") id += "-" + v.text("MASTER_PORT").value_or("0");
    return as_id("torchrun-" + id + "-" + v.text("TORCHELASTIC_RESTART_COUNT").value_or("0"));
  }
  if (info.source == LaunchSource::slurm && v.has("SLURM_JOB_ID"))
    return as_id("slurm-" + *v.text("SLURM_JOB_ID") + "." + v.text("SLURM_STEP_ID").value_or("0"));
  if (info.source == LaunchSource::open_mpi || info.source == LaunchSource::mpich)
    if (const auto space = v.text("PMIX_NAMESPACE"); space && !space->empty()) return as_id("pmix-" + *space);
  // ranks on several hosts, or typed into several shells, have different parents but the same endpoint
  if (info.endpoint && (!info.one_host() || info.source == LaunchSource::flags))
    return hashed("endpoint", info.endpoint->host + "\n" + std::to_string(info.endpoint->port) + "\n" + std::string(output_dir));
  return hashed("parent", std::to_string(parent.pid) + "\n" + std::to_string(parent.start_ticks) + "\n" + std::string(output_dir));
}

ParentProcess parent_process() {
  ParentProcess parent{.pid = ::getppid()};
  std::ifstream file("/proc/" + std::to_string(parent.pid) + "/stat");
  std::string text;
  std::getline(file, text);
  // pid (any name) state ppid ...: the start time is field 22, the 20th after the last parenthesis
  size_t at = text.rfind(')');
  for (int field = 0; field < 20 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  if (at != std::string::npos) std::from_chars(text.data() + at + 1, text.data() + text.size(), parent.start_ticks);
  return parent;
}

}  // namespace longlora::dist
