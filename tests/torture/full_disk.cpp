// A disk that fills up at every page of a save and of an export, and files that may not grow beyond every 1 KiB.
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "longlora/core/error.h"
#include "torture/scenario.h"

namespace longlora::torture {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kPage = 4096;
constexpr int64_t kPages = 16;  // a save of the scenario takes fewer

void check(const fs::path& run, const Outcome& outcome, const std::string& label, Score& score) {
  const int io = exit_code(ErrorKind::io).code;
  ++score.faults;
  if (outcome.code != 0 && outcome.code != io) score.wrong_code(fmt::format("{}: ended with {}", label, outcome.code));
  const bool saved = outcome.reports.find('S') != std::string::npos;
  const int64_t highest = highest_complete(run / "checkpoints", true);
  if (highest < (saved ? 2 : 1)) score.loss(fmt::format("{}: highest complete step {}", label, highest));
  if (outcome.code != 0 && has_prefix(run / "checkpoints", "tmp-")) score.loss(label + ": the temporary folder stays");
}

void limit_file_size(Score& score) {
  const Arena arena;
  prepare(arena, Start::one_step);
  int64_t failures = 0, cases = 0;
  for (rlim_t bytes = 0; bytes <= 12 * 1024; bytes += 1024, ++cases) {
    arena.reset();
    const Outcome outcome = run_child([&](const Report& report) {
      signal(SIGXFSZ, SIG_IGN);  // as the program does: the write then fails with EFBIG
      const rlimit limit{bytes, bytes};
      setrlimit(RLIMIT_FSIZE, &limit);
      return save_body(arena.run(), 2, 2, report);
    });
    failures += outcome.code != 0;
    check(arena.run(), outcome, fmt::format("file-size:{}", bytes), score);
  }
  if (failures == 0 || failures == cases) score.wrong_code("the file size limit had no effect");
  fmt::print("file size limit: {} limits, {} saves refused\n", cases, failures);
}

/// Runs inside a private mount namespace; reports 'F' for every refused case, 'L'/'W' for what went wrong.
int sweep_in_namespace(const fs::path& mount_point, const fs::path& prepared, const Report& report) {
  Score score;
  for (int64_t pages = 0; pages <= kPages; ++pages) {
    if (mount("torture", mount_point.c_str(), "tmpfs", 0, "size=4m") != 0) return 2;
    fs::copy(prepared, mount_point / "run", fs::copy_options::recursive);
    const fs::space_info space = fs::space(mount_point);
    const std::string size = fmt::format("size={}", static_cast<int64_t>(space.capacity - space.free) + pages * kPage);
    if (mount("torture", mount_point.c_str(), "tmpfs", MS_REMOUNT, size.c_str()) != 0) return 3;
    const Outcome saved = run_child([&](const Report& r) { return save_body(mount_point / "run", 2, 2, r); });
    check(mount_point / "run", saved, fmt::format("disk:save:{}", pages), score);
    const Outcome exported = run_child([&](const Report& r) { return export_body(mount_point / "run", r); });
    ++score.faults;
    const bool is_half = fs::exists(mount_point / "run/model") && !export_is_complete(mount_point / "run");
    if (is_half) score.loss(fmt::format("disk:export:{}: the target is half written", pages));
    if (exported.code != 0 && exported.code != exit_code(ErrorKind::io).code) score.wrong_code(fmt::format("disk:export:{}", pages));
    if (saved.code != 0) report('F');
    if (umount(mount_point.c_str()) != 0) return 4;
  }
  for (int64_t i = 0; i < score.losses; ++i) report('L');
  for (int64_t i = 0; i < score.wrong_codes; ++i) report('W');
  return 0;
}

void fill_small_disks(Score& score) {
  const Arena arena;
  prepare(arena, Start::one_step);
  fs::create_directories(arena.run());
  const Outcome outcome = run_child([&](const Report& report) {
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 2;
    return sweep_in_namespace(arena.run(), arena.prepared(), report);
  });
  if (outcome.code == 2) {
    fmt::print("SKIPPED: disks of every size need root and a private mount namespace; only the file size limit was swept\n");
    return;
  }
  const auto count = [&](char c) { return std::count(outcome.reports.begin(), outcome.reports.end(), c); };
  score.faults += 2 * (kPages + 1);
  score.losses += count('L');
  score.wrong_codes += count('W');
  if (outcome.code != 0 || count('F') == 0 || count('F') == kPages + 1) {
    score.wrong_code(fmt::format("disk sweep: code {}, {} of {} saves refused", outcome.code, count('F'), kPages + 1));
  }
  fmt::print("full disk: {} sizes, {} saves refused\n", kPages + 1, count('F'));
}

}  // namespace

void fill_the_disk(Score& score) {
  limit_file_size(score);
  fill_small_disks(score);
}

}  // namespace longlora::torture
