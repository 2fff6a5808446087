// The launcher with shells as ranks. Each launch runs in a process of its own, as `longlora-train launch` does.
#include "longlora/dist/launcher.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "dist/launcher_environment.h"
#include "dist/launcher_output.h"
#include "dist/launcher_rules.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/text.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora::dist {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

LauncherOptions shells(int ranks, const std::string& script) {
  LauncherOptions options;
  options.command = {"/bin/sh", "-c", script};
  options.ranks_per_node = ranks;
  options.max_restarts = 0;
  options.report_seconds = 0.3, options.terminate_seconds = 0.3;
  options.first_pause_seconds = 0.01;
  options.environment = process_environment();
  return options;
}

/// A launcher as a process, its standard streams in files.
class Launcher {
 public:
  Launcher(const LauncherOptions& options, const TempDir& dir) : dir_(dir) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::dup2(::open((dir / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    ::dup2(::open((dir / "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    ::_exit(run_guarded([&] { return launch(options); }));
  }
  ~Launcher() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait();
  }
  /// Exit code as a shell shows it.
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void signal(int number) const { ::kill(pid_, number); }
  std::string out() const { return dir_.read("out"); }
  std::string err() const { return dir_.read("err"); }

 private:
  const TempDir& dir_;
  pid_t pid_ = -1;
};

/// Waits for a condition that some other process makes true; false after 5 s.
template <class F>
bool eventually(F&& condition) {
  for (const double end = monotonic_seconds() + 5; monotonic_seconds() < end; std::this_thread::sleep_for(std::chrono::milliseconds(5)))
    if (condition()) return true;
  return condition();
}

/// A process that runs: not gone, and not only waiting for somebody to reap it.
bool alive(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.size() > name_end + 2 && text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result = split(text, '\n');
  if (!result.empty() && result.back().empty()) result.pop_back();
  return result;
}

std::vector<pid_t> pids_in(const TempDir& dir) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    if (entry.path().filename().string().starts_with("pid."))
      for (const std::string& line : lines(dir.read(entry.path().filename().string()))) pids.push_back(std::stoi(line));
  return pids;
}

TEST(Launcher, ExitCodeIsTheRootCauses) {
  struct Row {
    const char* name;
    std::vector<const char*> ranks;
    int code;
  };
  const char* const kHangs = "trap '' TERM; while :; do sleep 1; done";
  for (const Row& row : std::initializer_list<Row>{
           {"all done", {"exit 0", "sleep 0.1"}, 0},
           {"one fails", {"exit 0", "exit 65"}, 65},
           {"first of two failures", {"exit 79", "sleep 0.15; exit 65"}, 79},
           {"76 comes first, the cause reports itself later", {"exit 76", "sleep 0.15; exit 65"}, 65},
           {"76 comes later", {"exit 71", "sleep 0.1; exit 76"}, 71},
           {"all 76", {"exit 76", "sleep 0.1; exit 76"}, 76},
           {"76, the other hangs", {"exit 76", kHangs}, 76},
           {"76, the other ends by SIGTERM with 75", {"exit 76", "trap 'exit 75' TERM; while :; do sleep 0.01; done"}, 76},
           {"65, the other hangs", {kHangs, "exit 65"}, 65},
           {"all 75", {"exit 75", "sleep 0.1; exit 75"}, 75},
           {"75 leaves the others time", {"exit 75", "sleep 1; exit 75"}, 75},
           {"killed", {"kill -9 $$", "sleep 0.1; exit 76"}, 137},
           {"segmentation fault", {"kill -SEGV $$"}, 139},
           {"a shell reports its child's signal", {"exit 137", "exit 76"}, 137},
           {"not one of ours", {"exit 3"}, 3},
       }) {
    SCOPED_TRACE(row.name);
    const TempDir dir;
    std::string script = "case $RANK in";
    for (size_t rank = 0; rank < row.ranks.size(); ++rank) script += "\n" + std::to_string(rank) + ") " + row.ranks[rank] + ";;";
    Launcher launcher(shells(static_cast<int>(row.ranks.size()), script + "\nesac"), dir);
    EXPECT_EQ(launcher.wait(), row.code) << launcher.err();
  }
}

TEST(Launcher, ExplainsADeathByKill) {
  const TempDir dir;
  LauncherOptions options = shells(2, "test $RANK = 1 && kill -9 $$; echo hidden; sleep 0.1; exit 76");
  options.explain_kill = [] { return std::string("the plan was 12 GiB"); };
  Launcher launcher(options, dir);
  EXPECT_EQ(launcher.wait(), 137);
  EXPECT_THAT(launcher.err(), HasSubstr("rank 1 ended first: signal 9 (Killed), exit code 137"));
  EXPECT_THAT(launcher.err(), HasSubstr("out-of-memory killer"));
  EXPECT_THAT(launcher.err(), HasSubstr("the plan was 12 GiB"));
}

TEST(Launcher, LeavesNoOrphanAfterAFailure) {
  const TempDir dir;
  const std::string folder = dir.path().string();
  // the child of a rank ignores SIGTERM too, and keeps the rank's output open
  LauncherOptions options = shells(3, "(trap '' TERM; sleep 300) & echo $! > " + folder + "/pid.$RANK; trap '' TERM; echo $$ >> " + folder +
                                          "/pid.$RANK; test $RANK = 2 && sleep 0.3 && kill -9 $$; wait; wait; sleep 300");
  const double start = monotonic_seconds();
  Launcher launcher(options, dir);
  EXPECT_EQ(launcher.wait(), 137);
  EXPECT_LT(monotonic_seconds() - start, 4);
  const std::vector<pid_t> pids = pids_in(dir);
  EXPECT_EQ(pids.size(), 6u);
  for (const pid_t pid : pids) EXPECT_TRUE(eventually([&] { return !alive(pid); })) << pid;
}

TEST(Launcher, TakesItsProcessesAlongWhenItIsKilled) {
  const TempDir dir;
  const std::string folder = dir.path().string();
  Launcher launcher(shells(2, "trap '' TERM HUP; sleep 300 & echo $! > " + folder + "/p.$RANK; echo $$ >> " + folder + "/p.$RANK; mv " +
                                  folder + "/p.$RANK " + folder + "/pid.$RANK; wait"),
                    dir);
  ASSERT_TRUE(eventually([&] { return pids_in(dir).size() == 4; }));
  const std::vector<pid_t> pids = pids_in(dir);
  for (const pid_t pid : pids) EXPECT_TRUE(alive(pid));
  const double killed = monotonic_seconds();
  launcher.signal(SIGKILL);
  launcher.wait();
  for (const pid_t pid : pids) EXPECT_TRUE(eventually([&] { return !alive(pid); })) << pid;
  EXPECT_LT(monotonic_seconds() - killed, 2);
}

TEST(Launcher, NothingOfARankThatEndedStays) {
  const TempDir dir;
  Launcher launcher(shells(1, "sleep 300 & echo $! > " + dir.path().string() + "/pid.0; exit 0"), dir);
  EXPECT_EQ(launcher.wait(), 0);
  for (const pid_t pid : pids_in(dir)) EXPECT_TRUE(eventually([&] { return !alive(pid); }));
}

std::string answers_to(const char* signal, const TempDir& dir, const std::string& answer) {
  const std::string folder = dir.path().string();
  return std::string("trap 'echo got >> ") + folder + "/got.$RANK; " + answer + "' " + signal + "; : > " + folder +
         "/ready.$RANK; while :; do sleep 0.02; done";
}
bool ready(const TempDir& dir, int ranks) {
  for (int rank = 0; rank < ranks; ++rank)
    if (!std::filesystem::exists(dir / ("ready." + std::to_string(rank)))) return false;
  return true;
}

TEST(Launcher, PassesEachStopSignalOnOnce) {
  ::signal(SIGHUP, SIG_DFL);  // under nohup the launcher would leave it ignored
  for (const auto& [number, name] :
       std::initializer_list<std::pair<int, const char*>>{{SIGTERM, "TERM"}, {SIGINT, "INT"}, {SIGHUP, "HUP"}, {SIGUSR1, "USR1"}}) {
    SCOPED_TRACE(name);
    const TempDir dir;
    LauncherOptions options = shells(2, answers_to(name, dir, "sleep 0.1; exit 75"));
    options.max_restarts = 3;
    Launcher launcher(options, dir);
    ASSERT_TRUE(eventually([&] { return ready(dir, 2); }));
    launcher.signal(number);
    EXPECT_EQ(launcher.wait(), 75) << launcher.err();
    for (const char* rank : {"got.0", "got.1"}) EXPECT_EQ(dir.read(rank), "got\n");
  }
}

TEST(Launcher, LetsAProgramUnderAShellFinishItsStop) {
  const TempDir dir;
  const std::string folder = dir.path().string();
  // the outer shell dies of SIGTERM at once, its child needs a moment to save
  Launcher launcher(shells(1, "/bin/sh -c \"trap 'sleep 0.3; echo saved > " + folder + "/saved; exit 75' TERM; : > " + folder +
                                  "/ready.0; while :; do sleep 0.02; done\"; true"),
                    dir);
  ASSERT_TRUE(eventually([&] { return ready(dir, 1); }));
  launcher.signal(SIGTERM);
  EXPECT_EQ(launcher.wait(), 128 + SIGTERM);
  EXPECT_EQ(dir.read("saved"), "saved\n");
}

TEST(Launcher, SecondSignalKills) {
  const TempDir dir;
  Launcher launcher(shells(2, answers_to("TERM", dir, ":")), dir);
  ASSERT_TRUE(eventually([&] { return ready(dir, 2); }));
  launcher.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return std::filesystem::exists(dir / "got.0") && std::filesystem::exists(dir / "got.1"); }));
  launcher.signal(SIGINT);
  EXPECT_EQ(launcher.wait(), 128 + SIGINT);
  for (const char* rank : {"got.0", "got.1"}) EXPECT_EQ(dir.read(rank), "got\n");
}

TEST(Launcher, KillsWhatDoesNotStopInTime) {
  const TempDir dir;
  LauncherOptions options = shells(2, "if test $RANK = 0; then a='exit 75'; else a=':'; fi; trap \"$a\" TERM; : > " + dir.path().string() +
                                          "/ready.$RANK; while :; do sleep 0.02; done");
  options.grace_seconds = 0.3;
  options.max_restarts = 3;
  Launcher launcher(options, dir);
  ASSERT_TRUE(eventually([&] { return ready(dir, 2); }));
  launcher.signal(SIGTERM);
  EXPECT_EQ(launcher.wait(), 137);
  EXPECT_THAT(launcher.err(), HasSubstr("--grace"));
  EXPECT_THAT(launcher.err(), Not(HasSubstr("out-of-memory")));
}

TEST(Launcher, PrintsWholeLinesOfAllRanks) {
  const TempDir dir;
  LauncherOptions options =
      shells(3, "i=0; while test $i -lt 60; do printf ab; printf 'cd\\nef' >&1; printf 'gh %s\\n' $i; i=$((i+1)); done; printf last");
  options.shown = ShownRanks::all;
  Launcher launcher(options, dir);
  ASSERT_EQ(launcher.wait(), 0) << launcher.err();
  std::map<std::string, int> seen;
  for (const std::string& line : lines(launcher.out())) ++seen[line.substr(0, line.find("gh"))];
  EXPECT_EQ(seen, (std::map<std::string, int>{{"abcd", 60},
                                              {"ef", 60},
                                              {"last", 1},
                                              {"[rank 1] abcd", 60},
                                              {"[rank 1] ef", 60},
                                              {"[rank 1] last", 1},
                                              {"[rank 2] abcd", 60},
                                              {"[rank 2] ef", 60},
                                              {"[rank 2] last", 1}}));
}

TEST(Launcher, ShowsRankZeroAndTroubleOfTheOthers) {
  const TempDir dir;
  LauncherOptions options = shells(
      2, "echo plain; echo 'warning: slow' >&2; echo '{\"level\": \"warning\"}'; echo 'longlora-train: error[data]: x' >&2; echo more >&2");
  options.log_folder = dir / "logs";
  options.create_log_folder = true;
  Launcher launcher(options, dir);
  ASSERT_EQ(launcher.wait(), 0);
  EXPECT_THAT(lines(launcher.out()),
              testing::UnorderedElementsAre("plain", "{\"level\": \"warning\"}", "[rank 1] {\"level\": \"warning\"}"));
  EXPECT_THAT(lines(launcher.err()), testing::UnorderedElementsAre("warning: slow", "longlora-train: error[data]: x", "more",
                                                                   "[rank 1] warning: slow", "[rank 1] longlora-train: error[data]: x"));
  for (const char* log : {"logs/launch_rank_0.log", "logs/launch_rank_1.log"}) EXPECT_EQ(lines(dir.read(log)).size(), 6u) << dir.read(log);
}

TEST(Launcher, HoldsLogLinesUntilTheCommandMadeTheFolder) {
  const TempDir dir;
  LauncherOptions options = shells(1, "echo early; mkdir " + (dir / "logs").string() + "; echo late");
  options.log_folder = dir / "logs";
  Launcher launcher(options, dir);
  ASSERT_EQ(launcher.wait(), 0);
  EXPECT_THAT(dir.read("logs/launch_rank_0.log"), testing::EndsWith("\nearly\nlate\n"));
  const TempDir other;
  options = shells(1, "echo early");
  options.log_folder = other / "logs";
  Launcher refused(options, other);
  ASSERT_EQ(refused.wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(other / "logs"));
}

TEST(Launcher, RestartsAllRanksByTheRule) {
  struct Row {
    const char* end;  // of rank 1; rank 0 ends with 76
    int max_restarts, starts, code;
  };
  for (const Row& row : std::initializer_list<Row>{{"exit 76", 2, 3, 76},
                                                   {"kill -9 $$", 1, 2, 137},
                                                   {"exit 70", 3, 2, 70},
                                                   {"exit 78", 3, 1, 78},
                                                   {"exit 75", 3, 1, 75},
                                                   {"exit 127", 3, 1, 127},
                                                   {"test -e $F/again && exit 0; : > $F/again; exit 76", 3, 2, 0}}) {
    SCOPED_TRACE(row.end);
    const TempDir dir;
    LauncherOptions options =
        shells(2, "F=" + dir.path().string() + "; echo $LONGLORA_RUN_ID $LONGLORA_SECRET >> $F/starts.$RANK; test $RANK = 1 && { " +
                      row.end + "; }; sleep 0.1; test -e $F/again && exit 0; exit 76");
    options.max_restarts = row.max_restarts;
    Launcher launcher(options, dir);
    EXPECT_EQ(launcher.wait(), row.code) << launcher.err();
    const std::vector<std::string> starts = lines(dir.read("starts.0"));
    EXPECT_EQ(std::ssize(starts), row.starts);
    EXPECT_EQ(lines(dir.read("starts.1")), starts);                                        // one identity for a start
    EXPECT_EQ(std::set<std::string>(starts.begin(), starts.end()).size(), starts.size());  // another for each
  }
}

TEST(Launcher, RestartsWithTheCommandThatResumes) {
  const TempDir dir;
  LauncherOptions options = shells(1, "echo first; exit 76");
  options.restart_command = {"/bin/sh", "-c", "echo again"};
  options.max_restarts = 1;
  Launcher launcher(options, dir);
  EXPECT_EQ(launcher.wait(), 0);
  EXPECT_EQ(launcher.out(), "first\nagain\n");
}

TEST(Launcher, NeverRestartsAfterAStopSignal) {
  const TempDir dir;
  LauncherOptions options = shells(1, answers_to("TERM", dir, "exit 76"));
  options.max_restarts = 3;
  Launcher launcher(options, dir);
  ASSERT_TRUE(eventually([&] { return ready(dir, 1); }));
  launcher.signal(SIGTERM);
  EXPECT_EQ(launcher.wait(), 76);
  EXPECT_EQ(dir.read("got.0"), "got\n");
  // and a signal in the pause before a restart ends the launcher
  const TempDir other;
  options = shells(1, "echo $$ > " + (other / "pid.0").string() + "; exit 76");
  options.max_restarts = 3, options.first_pause_seconds = 60;
  Launcher pausing(options, other);
  ASSERT_TRUE(eventually([&] { return pausing.err().find("start again in 60 s") != std::string::npos; }));
  pausing.signal(SIGTERM);
  EXPECT_EQ(pausing.wait(), 76);
}

TEST(Launcher, GivesEachRankItsVariablesAndNoInput) {
  const TempDir dir;
  LauncherOptions options = shells(2, "read x && exit 9; env > " + dir.path().string() + "/env.$RANK; test -z \"$(cat)\"");
  options.environment["OMPI_COMM_WORLD_RANK"] = "7";
  options.environment["PMI_RANK"] = options.environment["PMIX_NAMESPACE"] = options.environment["SLURM_PROCID"] = "1";
  options.environment["TORCHELASTIC_RUN_ID"] = options.environment["SLURM_STEP_ID"] = "1";
  options.environment["LONGLORA_SECRET_FILE"] = "/nowhere";
  options.pin_gpus = true;
  Launcher launcher(options, dir);
  ASSERT_EQ(launcher.wait(), 0) << launcher.err();
  Environment seen;
  for (const std::string& line : lines(dir.read("env.1"))) seen[line.substr(0, line.find('='))] = line.substr(line.find('=') + 1);
  const LaunchInfo info = detect_launch({}, seen, "out");
  EXPECT_EQ(describe(info), "launch: own launcher rank 1/2 local 1/2 node 0");
  EXPECT_EQ(info.run_id, seen["LONGLORA_RUN_ID"]);
  EXPECT_EQ(seen["LONGLORA_SECRET"].size(), 64u);
  EXPECT_EQ(seen["CUDA_VISIBLE_DEVICES"], "1");
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_NAMESPACE", "SLURM_PROCID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID",
                           "LONGLORA_SECRET_FILE"})
    EXPECT_FALSE(seen.contains(name)) << name;
}

TEST(Launcher, RefusesBeforeAnythingStarts) {
  const auto refused = [](auto change) {
    LauncherOptions options = shells(1, "exit 0");
    change(options);
    const TempDir dir;
    return Launcher(options, dir).wait();
  };
  EXPECT_EQ(refused([](LauncherOptions& o) { o.command = {"/nonexistent/program"}; }), 66);
  EXPECT_EQ(refused([](LauncherOptions& o) { o.command = {"/etc/passwd"}; }), 77);
  EXPECT_EQ(refused([](LauncherOptions& o) { o.command.clear(); }), 78);
  EXPECT_EQ(refused([](LauncherOptions& o) { o.ranks_per_node = 0; }), 78);
  EXPECT_EQ(refused([](LauncherOptions& o) { o.node_rank = 1; }), 78);
  EXPECT_EQ(refused([](LauncherOptions& o) { o.nodes = 2; }), 78);                                             // no endpoint
  EXPECT_EQ(refused([](LauncherOptions& o) { o.nodes = 2, o.endpoint = Endpoint{"127.0.0.1", 29500}; }), 78);  // no secret
}

TEST(RankEnvironment, IsOneWorldOverSeveralHosts) {
  LauncherOptions options = shells(4, "");
  options.nodes = 2, options.endpoint = Endpoint{"node01", 29500};
  options.environment = {{"LONGLORA_SECRET", "s"}, {"CUDA_VISIBLE_DEVICES", "4,5"}, {"PATH", "/bin"}};
  options.pin_gpus = true;
  const StartIdentity first = make_identity(options, 0);
  options.node_rank = 1;
  const StartIdentity second = make_identity(options, 3);
  EXPECT_EQ(first.run_id, second.run_id);
  EXPECT_EQ(second.secret, "");
  const Environment environment = rank_environment(options, second, 2);
  EXPECT_EQ(environment.at("LONGLORA_SECRET"), "s");
  EXPECT_EQ(environment.at("CUDA_VISIBLE_DEVICES"), "4,5");
  const LaunchInfo info = detect_launch({}, environment, "out");
  EXPECT_EQ(describe(info), "launch: own launcher rank 6/8 local 2/4 node 1");
  EXPECT_EQ(info.endpoint->host, "node01");
  options.endpoint->port = 29501;
  EXPECT_NE(make_identity(options, 0).run_id, first.run_id);
}

TEST(RootCause, IsTheEarliestFailureThatIsNoConsequence) {
  EXPECT_EQ(root_cause({}).rank, -1);
  const std::vector<RankEnd> ends = {{0, 0, 1, false}, {1, 76, 2, false}, {2, 143, 3, true}, {3, 65, 5, false}, {4, 66, 4, false}};
  EXPECT_EQ(root_cause(ends).rank, 4);
  EXPECT_EQ(root_cause(std::span(ends).first(3)).code, 76);
  EXPECT_EQ(root_cause(std::span(ends).first(1)).code, 0);
}

TEST(RestartRule, DoublesThePauseAndForgetsAfterAnHour) {
  RestartRule rule(8, 1);
  std::vector<double> pauses;
  for (int i = 0; i < 8; ++i) pauses.push_back(*rule.pause_before_restart(76, i));
  EXPECT_THAT(pauses, ElementsAre(1, 2, 4, 8, 16, 32, 60, 60));
  EXPECT_FALSE(rule.pause_before_restart(137, 10).has_value());
  EXPECT_THAT(rule.refusal(), HasSubstr("--max-restarts"));
  EXPECT_FALSE(rule.pause_before_restart(137, 3599.9).has_value());
  EXPECT_EQ(rule.pause_before_restart(137, 3600), 60);
  EXPECT_EQ(rule.pause_before_restart(76, 3700 + 3600), 1);
  for (const int code : {0, 1, 64, 65, 66, 71, 73, 74, 75, 77, 78, 79, 80, 81, 126, 127, 128, 200})
    EXPECT_FALSE(RestartRule(8, 1).pause_before_restart(code, 0).has_value()) << code;
}

TEST(LineSplitter, CutsOnlyEndlessLines) {
  LineSplitter splitter;
  std::vector<size_t> sizes;
  const auto note = [&](std::string_view line) { sizes.push_back(line.size()); };
  splitter.feed("a\n\nbc", note);
  splitter.feed("d\n", note);
  EXPECT_THAT(sizes, ElementsAre(1, 0, 3));
  splitter.feed(std::string(150'000, 'x'), note);
  splitter.finish(note);
  EXPECT_THAT(sizes, ElementsAre(1, 0, 3, 65'536, 65'536, 150'000 - 2 * 65'536));
}

}  // namespace
}  // namespace longlora::dist
