// Faults injected into the real commit, rotation, recovery and export code (docs/checkpoint.md). Torch-free.
//   ckpt_torture [--only kill|error|disk|damage|lock] [--seed N]
// Last line: "torture: K faults, L losses, W wrong codes"; exit code 1 unless L = W = 0.
#include <fmt/format.h>
#include <signal.h>

#include <cstring>
#include <string>

#include "longlora/core/clock.h"
#include "longlora/core/log.h"
#include "torture/scenario.h"

using namespace longlora::torture;

int main(int argc, char** argv) {
  std::string only;
  uint64_t seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
    if (std::strcmp(argv[i], "--seed") == 0) seed = std::stoull(argv[i + 1]);
  }
  signal(SIGPIPE, SIG_IGN);
  longlora::configure_log({.minimum = static_cast<longlora::LogLevel>(4)});  // thousands of expected warnings
  setvbuf(stdout, nullptr, _IONBF, 0);                                       // children must not repeat buffered lines
  Score score;
  const auto section = [&](const char* name, const std::function<void()>& run) {
    if (!only.empty() && only != name) return;
    const double begin = longlora::monotonic_seconds();
    run();
    fmt::print("section {}: {:.1f} s\n", name, longlora::monotonic_seconds() - begin);
  };
  section("lock", [&] { race_for_the_lock(score); });
  section("damage", [&] { damage_checkpoints(score, seed); });
  section("disk", [&] { fill_the_disk(score); });
  section("kill", [&] { kill_at_every_call(score); });
  section("error", [&] { fail_every_call(score); });
  fmt::print("torture: {} faults, {} losses, {} wrong codes\n", score.faults, score.losses, score.wrong_codes);
  return score.losses == 0 && score.wrong_codes == 0 && score.faults > 0 ? 0 : 1;
}
