#include "train/run_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/host.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/core/text.h"
#include "longlora/plan/plan_report.h"
#include "longlora/train/environment.h"
#include "longlora/train/run_status.h"
#include "longlora/train/version.h"

namespace longlora {
namespace {

void refuse_old_content(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == ".lock") continue;
    fail(ErrorKind::busy, "the folder is not empty ('" + escape(name) + "'), --resume never starts in an empty one", folder.string(),
         "choose another --output-dir, or --resume auto to go on");
  }
}

/// A real write, fsync and rename: a full or read-only disk is found before hours of work.
void probe_writing(const std::filesystem::path& folder) {
  const std::filesystem::path probe = folder / (".probe-" + process_nonce());
  write_file_atomic(probe, std::string(4096, '\n'));
  std::filesystem::remove(probe);
}

void check_space(const PreparedRun& run, const std::filesystem::path& folder) {
  constexpr uint64_t kBytesPerParameter = 12;  // master and two moments, fp32
  const uint64_t checkpoint = kBytesPerParameter * static_cast<uint64_t>(run.counts.trainable);
  const uint64_t needed = checkpoint * (static_cast<uint64_t>(run.config().checkpoint.keep) + 1);
  const uint64_t free = free_bytes(folder);
  LONGLORA_CHECK(free >= needed, io,
                 "needs " + human_bytes(needed) + " for " + std::to_string(run.config().checkpoint.keep + 1) + " checkpoints, " +
                     human_bytes(free) + " are free",
                 folder.string(), "free space, or lower checkpoint.keep");
}

std::string as_json(const std::map<std::string, std::string>& map) {
  std::string text;
  for (const auto& [key, value] : map) text += (text.empty() ? "" : ", ") + json_quote(key) + ": " + json_quote(value);
  return "{" + text + "}";
}

}  // namespace

RunFolder::RunFolder(const PreparedRun& run, int rank) : rank_(rank), path_(run.config().output_dir) {}

void RunFolder::open(const PreparedRun& run, ResumeMode resume) {
  create_folders(path_);
  if (resume == ResumeMode::never) refuse_old_content(path_);
  run_status().run_id = process_nonce();
  lock_ = std::make_unique<OutputLock>(path_, run_status().run_id);
  run_status().output_dir = path_;
  probe_writing(path_);
  check_space(run, path_);
  create_folders(path_ / "logs");
  const std::string& dir = run.config().checkpoint.dir;
  checkpoints_ = std::make_unique<CheckpointFolder>(dir.empty() ? path_ / "checkpoints" : std::filesystem::path(dir));
}

void RunFolder::say(const std::string& line) const {
  if (rank_ == 0) log_info("{}", line);
  std::ofstream(log_file(), std::ios::app) << wall_clock_iso8601() << " " << line << "\n";
}

void RunFolder::describe(const PreparedRun& run, const std::map<std::string, std::string>& identity) const {
  write_file_atomic(path_ / "config.yaml", print_config(run.config(), run.loaded.origins));
  const CpuInfo& cpu = cpu_info();
  const std::string text = fmt::format(
      "{{\n  \"version\": {},\n  \"started\": {},\n  \"run_id\": {},\n  \"host\": {},\n  \"pid\": {},\n  \"cpu\": {},\n  "
      "\"physical_cores\": {},\n"
      "  \"native_bf16\": {},\n  \"fingerprint\": {},\n  \"identity\": {},\n  \"memory_plan_bytes\": {},\n  \"memory_policy\": {}\n}}\n",
      json_quote(kVersion), json_quote(wall_clock_iso8601()), json_quote(run_status().run_id), json_quote(host_name()), ::getpid(),
      json_quote(cpu.model), cpu.physical_cores, cpu.native_bf16, as_json(fingerprint(run.compute, run.device, run.base->config.head_dim)),
      as_json(identity), run.memory.peak_bytes(), json_quote(run.memory.policy_summary()));
  write_file_atomic(path_ / "environment.json", text);
}

void RunFolder::describe_plan(const PlanReport& plan) const {
  say("predicted  " + step_time_text(plan.time));
  say("rates      " + plan.rates.source);
  if (rank_ != 0) return;
  try {
    write_file_atomic(path_ / "plan.json", plan_json(plan));
  } catch (const Error& error) {
    log_warning("no plan.json: {}", error.what());  // says what was expected, decides nothing
  }
}

}  // namespace longlora
