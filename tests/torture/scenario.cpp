#include "torture/scenario.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "longlora/checkpoint/commit.h"
#include "longlora/checkpoint/pending_folder.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora::torture {
namespace {

constexpr size_t kPayloadBytes = 9'001;  // not a multiple of anything

std::string payload(int64_t step, size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 131 + static_cast<size_t>(step) * 7) & 0xff);
  return text;
}

ManifestFile write_payload(const fs::path& folder, const std::string& name, const std::string& text) {
  OutputFile file = OutputFile::create(folder / name);
  file.allocate(text.size());
  const size_t half = text.size() / 2;
  file.write_all(std::string_view(text).substr(0, half));
  file.write_all(std::string_view(text).substr(half));
  file.sync();
  file.close();
  return {name, text.size(), sha256(text)};
}

std::vector<ManifestFile> fill(const fs::path& folder, int64_t step) {
  return {write_payload(folder, "state-00001-of-00001.safetensors", payload(step, kPayloadBytes)),
          write_payload(folder, "state.json", fmt::format("{{\"step\": {}}}\n", step))};
}

std::string chain_of(int64_t step) { return fmt::format("{:064x}", step); }

void write_text(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

void commit_steps(const fs::path& run, int64_t steps) {
  const Outcome outcome = run_child([&](const Report&) {
    return run_guarded([&] {
      CheckpointFolder folder(run / "checkpoints");
      for (int64_t step = 1; step <= steps; ++step) {
        folder.commit(step, chain_of(step), [&](const fs::path& pending) { return fill(pending, step); });
      }
      return 0;
    });
  });
  if (outcome.code != 0) throw std::runtime_error("cannot prepare checkpoints");
}

}  // namespace

void Score::loss(const std::string& what) {
  ++losses;
  fmt::print("LOSS {}\n", what);
}

void Score::wrong_code(const std::string& what) {
  ++wrong_codes;
  fmt::print("WRONG {}\n", what);
}

Arena::Arena() {
  const fs::path parent = access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
  std::string name = (parent / "longlora-torture-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("cannot create " + name);
  root_ = name;
}

Arena::~Arena() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

void Arena::reset() const {
  fs::remove_all(run());
  fs::copy(prepared(), run(), fs::copy_options::recursive);
}

int save_body(const fs::path& run, int64_t step, int64_t keep, const Report& report) {
  return run_guarded([&] {
    const OutputLock lock(run, "torture");
    CheckpointFolder folder(run / "checkpoints");
    folder.choose();
    folder.commit(step, chain_of(step), [&](const fs::path& pending) { return fill(pending, step); });
    report('S');
    folder.rotate(keep);
    report('R');
    return 0;
  });
}

int recover_body(const fs::path& run, const Report& report) {
  return run_guarded([&] {
    const OutputLock lock(run, "torture");
    CheckpointFolder folder(run / "checkpoints");
    if (folder.choose()) report('C');
    return 0;
  });
}

int export_body(const fs::path& run, const Report& report) {
  return run_guarded([&] {
    PendingFolder pending(run / "model");
    write_payload(pending.path(), "model.safetensors", payload(1, kPayloadBytes));
    write_payload(pending.path(), "config.json", "{}\n");
    pending.sync();
    pending.publish();
    report('E');
    return 0;
  });
}

void prepare(const Arena& arena, Start start) {
  const fs::path run = arena.prepared(), checkpoints = run / "checkpoints";
  fs::remove_all(run);
  fs::create_directories(run);
  if (start == Start::export_leftover) {
    write_text(run / "model.tmp-00000000deadbeef" / "model.safetensors", "half");
    return;
  }
  commit_steps(run, start == Start::one_step ? 1 : start == Start::two_steps ? 2 : 3);
  if (start != Start::damaged_and_leftovers) return;
  fs::resize_file(checkpoints / "step-0000000003" / "state.json", 3);
  write_text(checkpoints / "tmp-0000000004-00000000deadbeef" / "state.json", "{");
  write_text(checkpoints / "trash-0000000000-00000000deadbeef" / "state.json", "{}");
}

int64_t highest_complete(const fs::path& checkpoints, bool all_must_verify) {
  int64_t highest = -1;
  std::error_code error;
  for (const std::string& name : names(checkpoints)) {
    if (!name.starts_with("step-")) continue;
    try {
      highest = std::max(highest, CheckpointFolder::verify(checkpoints / name).step);
    } catch (const Error&) {
      if (all_must_verify) return -2;
    }
  }
  return highest;
}

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> result;
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) result.push_back(entry.path().filename().string());
  }
  std::sort(result.begin(), result.end());
  return result;
}

bool has_prefix(const fs::path& folder, const std::string& prefix) {
  const std::vector<std::string> all = names(folder);
  return std::any_of(all.begin(), all.end(), [&](const std::string& name) { return name.starts_with(prefix); });
}

bool export_is_complete(const fs::path& run) {
  const auto size_of_file = [&](const char* name) { return fs::exists(run / "model" / name) ? fs::file_size(run / "model" / name) : 0; };
  return size_of_file("model.safetensors") == kPayloadBytes && size_of_file("config.json") == 3;
}

}  // namespace longlora::torture
