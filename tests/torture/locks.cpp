// Eight processes start in one folder at the same instant: one wins, the others name it; a dead owner's lock is free.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <map>

#include "longlora/checkpoint/commit.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "torture/scenario.h"

namespace longlora::torture {
namespace {

constexpr int kRounds = 100;
constexpr int kStarters = 8;
constexpr double kLoserSeconds = 1.0;

struct Message {
  pid_t sender;
  int code;
  pid_t named;
  double seconds;
};

/// Waits for the start, tries to lock, tells, and holds what it has until it is killed.
[[noreturn]] void starter(const std::filesystem::path& folder, int gate, int results) {
  char go;
  while (read(gate, &go, 1) < 0) {
  }
  const double begin = monotonic_seconds();
  Message message{.sender = getpid(), .code = 0, .named = 0, .seconds = 0};
  std::optional<OutputLock> lock;
  try {
    lock.emplace(folder, "race");
  } catch (const Error& error) {
    message.code = exit_code(error.kind).code;
    const size_t at = error.what_happened.find("pid ");
    if (at != std::string::npos) message.named = std::atoi(error.what_happened.c_str() + at + 4);
  }
  message.seconds = monotonic_seconds() - begin;
  if (write(results, &message, sizeof message) != sizeof message) _exit(1);
  if (message.code != 0) _exit(0);
  for (;;) pause();
}

void check_round(const std::vector<Message>& messages, int round, Score& score) {
  std::map<int, int> codes;
  pid_t winner = 0;
  for (const Message& message : messages) {
    ++codes[message.code];
    if (message.code == 0) winner = message.sender;
  }
  const int busy = exit_code(ErrorKind::busy).code;
  if (codes[0] != 1) score.loss(fmt::format("lock:{}: {} owners", round, codes[0]));
  if (codes[busy] != kStarters - 1) score.wrong_code(fmt::format("lock:{}: {} losers with 73", round, codes[busy]));
  for (const Message& message : messages) {
    if (message.code == 0) continue;
    if (message.named != winner) score.wrong_code(fmt::format("lock:{}: the loser names {}, owner is {}", round, message.named, winner));
    if (message.seconds > kLoserSeconds) score.wrong_code(fmt::format("lock:{}: the loser took {:.2f} s", round, message.seconds));
  }
}

void race(const std::filesystem::path& folder, int round, Score& score) {
  std::array<int, 2> gate{}, results{};
  if (pipe(gate.data()) != 0 || pipe(results.data()) != 0) return score.wrong_code("lock: no pipe");
  std::vector<pid_t> children;
  for (int i = 0; i < kStarters; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      close(gate[1]);
      starter(folder, gate[0], results[1]);
    }
    children.push_back(child);
  }
  close(gate[0]);
  close(gate[1]);  // end of file is the starting gun
  std::vector<Message> messages(kStarters);
  for (Message& message : messages) {
    if (read(results[0], &message, sizeof message) != sizeof message) score.wrong_code("lock: a starter died");
  }
  check_round(messages, round, score);
  for (const pid_t child : children) {
    kill(child, SIGKILL);  // the owner dies without a word
    waitpid(child, nullptr, 0);
  }
  close(results[0]);
  close(results[1]);
  score.faults += kStarters;
}

}  // namespace

void race_for_the_lock(Score& score) {
  const Arena arena;
  const std::filesystem::path folder = arena.run() / "new" / "output";
  for (int round = 0; round < kRounds; ++round) race(folder, round, score);
  if (names(folder) != std::vector<std::string>{".lock"}) score.loss("lock: the losers changed the folder");
  fmt::print("lock races: {} rounds of {}\n", kRounds, kStarters);
}

}  // namespace longlora::torture
