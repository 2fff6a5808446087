// SIGKILL before and after every system call of a save with rotation, of a recovery and of an export (invariants I1 and I2).
#include <fmt/format.h>

#include "torture/scenario.h"

namespace longlora::torture {
namespace {

constexpr int kKilled = 128 + 9;

struct Case {
  const char* name;
  Start start;
  std::function<int(const Report&)> body;
  std::function<void(const Outcome&, const std::string& label, Score&)> check;
};

/// After any death: the next start finds a complete checkpoint, removes all leftovers and can save.
void check_restart(const Arena& arena, const std::string& label, Score& score) {
  const Outcome restart = run_child([&](const Report& report) { return save_body(arena.run(), 9, 2, report); });
  if (restart.code != 0 || restart.reports != "SR") score.loss(fmt::format("{}: the next start ends with {}", label, restart.code));
  if (has_prefix(arena.checkpoints(), "tmp-") || has_prefix(arena.checkpoints(), "trash-")) score.loss(label + ": leftovers stay");
  if (highest_complete(arena.checkpoints(), true) != 9) score.loss(label + ": the next save is not complete");
}

void check_save(const Arena& arena, const Outcome& outcome, const std::string& label, Score& score) {
  const int64_t highest = highest_complete(arena.checkpoints(), true);
  if (highest == -2) score.loss(label + ": a visible checkpoint is not complete");
  const int64_t promised = outcome.reports.find('S') != std::string::npos ? 3 : 2;
  if (highest < promised) score.loss(fmt::format("{}: highest complete step {}, promised {}", label, highest, promised));
  check_restart(arena, label, score);
}

void check_recovery(const Arena& arena, const std::string& label, Score& score) {
  const int64_t highest = highest_complete(arena.checkpoints(), false);
  if (highest != 2) score.loss(fmt::format("{}: highest complete step {}, expected 2", label, highest));
  const bool kept = has_prefix(arena.checkpoints(), "step-0000000003") || has_prefix(arena.checkpoints(), "bad-0000000003");
  if (!kept) score.loss(label + ": the damaged checkpoint is gone");
  check_restart(arena, label, score);
}

void check_export(const Arena& arena, const Outcome& outcome, const std::string& label, Score& score) {
  const bool exists = has_prefix(arena.run(), "model") && std::filesystem::exists(arena.run() / "model");
  if (exists && !export_is_complete(arena.run())) score.loss(label + ": the target is half written");
  if (!exists && outcome.reports == "E") score.loss(label + ": a reported export is gone");
  std::filesystem::remove_all(arena.run() / "model");
  const Outcome restart = run_child([&](const Report& report) { return export_body(arena.run(), report); });
  if (restart.code != 0 || !export_is_complete(arena.run()))
    score.loss(fmt::format("{}: the next export ends with {}", label, restart.code));
  if (names(arena.run()) != std::vector<std::string>{"model"}) score.loss(label + ": leftovers stay");
}

void kill_everywhere(const Arena& arena, const Case& test, Score& score) {
  prepare(arena, test.start);
  arena.reset();
  const Outcome whole = run_traced(test.body);
  if (whole.code != 0) return score.wrong_code(fmt::format("{} without a fault ends with {}", test.name, whole.code));
  const int64_t calls = static_cast<int64_t>(whole.calls.size());
  for (int64_t call = 0; call < calls; ++call) {
    for (const FaultKind kind : {FaultKind::kill_before, FaultKind::kill_after}) {
      const std::string label = fmt::format("kill:{}:{}{}", test.name, call, kind == FaultKind::kill_before ? "-" : "+");
      arena.reset();
      const Outcome outcome = run_traced(test.body, {.kind = kind, .call = call});
      // The allocator may need a call less than in the counted run; exit_group does not return.
      const bool was_hit = call < static_cast<int64_t>(outcome.calls.size()) - (kind == FaultKind::kill_after ? 1 : 0);
      if (was_hit && outcome.code != kKilled) score.wrong_code(fmt::format("{}: ended with {}", label, outcome.code));
      score.faults += was_hit;
      test.check(outcome, label, score);
    }
  }
  fmt::print("kill {}: {} calls, before and after each\n", test.name, calls);
}

}  // namespace

void kill_at_every_call(Score& score) {
  const Arena arena;
  kill_everywhere(arena,
                  {"save", Start::two_steps, [&](const Report& r) { return save_body(arena.run(), 3, 2, r); },
                   [&](const Outcome& o, const std::string& l, Score& s) { check_save(arena, o, l, s); }},
                  score);
  kill_everywhere(arena,
                  {"recover", Start::damaged_and_leftovers, [&](const Report& r) { return recover_body(arena.run(), r); },
                   [&](const Outcome&, const std::string& l, Score& s) { check_recovery(arena, l, s); }},
                  score);
  kill_everywhere(arena,
                  {"export", Start::export_leftover, [&](const Report& r) { return export_body(arena.run(), r); },
                   [&](const Outcome& o, const std::string& l, Score& s) { check_export(arena, o, l, s); }},
                  score);
}

}  // namespace longlora::torture
