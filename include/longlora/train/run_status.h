#pragma once
// What exit.json says about the end of a run. One object per process, filled as the run proceeds.
#include <cstdint>
#include <filesystem>
#include <string>

namespace longlora {

struct RunStatus {
  std::filesystem::path output_dir;  // empty until the lock is held: exit.json is written only by the owner
  std::filesystem::path rank_file;   // of a rank that is not the root: logs/exit_rank_N.json, written when it fails
  std::string run_id, checkpoint;    // newest checkpoint, or empty
  int64_t step = 0;
  int rank = 0;
};
RunStatus& run_status();
/// Makes run_guarded write output_dir/exit.json (and torchrun's error file when TORCHELASTIC_ERROR_FILE names one). Best effort.
void write_exit_file_at_end();

}  // namespace longlora
