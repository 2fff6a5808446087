#pragma once
// One start of all ranks of this host: from spawn to the last reap.
#include <memory>
#include <vector>

#include "dist/launcher_environment.h"
#include "dist/launcher_output.h"
#include "dist/launcher_rules.h"

namespace longlora::dist {

struct WorldEnd {
  RootCause cause;
  int stop_signal = 0, second_signal = 0;  // that the launcher got
  bool grace_over = false;                 // ranks were killed because they did not stop in time
};

class World {
 public:
  World(const LauncherOptions&, const StartIdentity&, const std::vector<std::string>& command, SignalPipe&, Guard&, Terminal&);
  ~World();  // kills what still lives, after an exception
  World(const World&) = delete;
  /// Until no process of any rank is left.
  WorldEnd run();

 private:
  struct Rank;
  enum class Teardown { none, reporting, terminating, killing };

  void wait_for_events();
  void read_output();
  void take_signals();
  void reap();
  void reap(Rank&);
  void reap_remains(Rank&);
  void let_go(Rank&);
  void leader_ended(Rank&, int code);
  void check_deadlines();
  void signal_all(int signal);
  void kill_all();
  void explain(const WorldEnd&) const;
  bool all_gone() const;
  bool stopping() const { return end_.stop_signal != 0 || saved_and_stopped_; }

  const LauncherOptions& options_;
  SignalPipe& signals_;
  Guard& guard_;
  Terminal& terminal_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<RankEnd> ends_;
  WorldEnd end_;
  bool saved_and_stopped_ = false;  // a rank ended with 75: the others are about to
  Teardown teardown_ = Teardown::none;
  double teardown_deadline_ = 0, grace_deadline_ = 0;  // monotonic seconds; 0: none
};

}  // namespace longlora::dist
