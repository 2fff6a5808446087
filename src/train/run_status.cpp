#include "longlora/train/run_status.h"

#include <cstdlib>
#include <ctime>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/dist/torchelastic.h"
#include "longlora/train/version.h"

namespace longlora {
namespace {

std::string exit_json(const Error* error, int code) {
  const RunStatus& run = run_status();
  const auto text = [&](const std::string Error::*member) { return json_quote(error != nullptr ? error->*member : std::string()); };
  const std::string name(error != nullptr ? exit_code(error->kind).name : "done");
  return "{\"code\": " + std::to_string(code) + ", \"name\": " + json_quote(name) + ", \"what\": " + text(&Error::what_happened) +
         ", \"where\": " + text(&Error::where) + ", \"do\": " + text(&Error::what_to_do) + ", \"step\": " + std::to_string(run.step) +
         ", \"rank\": " + std::to_string(run.rank) + ", \"checkpoint\": " + json_quote(run.checkpoint) +
         ", \"run_id\": " + json_quote(run.run_id) + ", \"version\": " + json_quote(kVersion) + "}\n";
}

}  // namespace

RunStatus& run_status() {
  static RunStatus status;
  return status;
}

void write_exit_file_at_end() {
  set_end_hook([](const Error* error, int code) {
    if (!run_status().output_dir.empty()) write_file_atomic(run_status().output_dir / "exit.json", exit_json(error, code));
    if (code != 0 && !run_status().rank_file.empty()) write_file_atomic(run_status().rank_file, exit_json(error, code));
    const char* error_file = std::getenv("TORCHELASTIC_ERROR_FILE");
    if (code == 0 || error_file == nullptr || *error_file == '\0') return;
    // without an Error the memory is used up: the hook is told the code only
    dist::write_torchelastic_error(error_file, error != nullptr ? error->what() : "host memory is used up", std::time(nullptr));
  });
}

}  // namespace longlora
