#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <sstream>

#include "dist/handshake.h"
#include "dist/hmac.h"
#include "dist/run_folder.h"
#include "dist/secret.h"
#include "longlora/core/files.h"
#include "support/error_of.h"
#include "support/process_ranks.h"

namespace longlora::dist {
namespace {

using test::ProcessRanks;
using test::RankEnd;
using test::RankSetup;
using testing::AllOf;
using testing::HasSubstr;

const std::string kSecret(64, 'a');

struct SetVariable {
  SetVariable(const char* name, const std::string& value) : name(name) { ::setenv(name, value.c_str(), 1); }
  ~SetVariable() { ::unsetenv(name); }
  const char* name;
};

std::string barrier(Communicator& world) {
  world.barrier({});
  return "";
}

void over_tcp(RankSetup& setup, uint16_t port) {
  setup.launch.local_rank = 0, setup.launch.local_world_size = 1;
  setup.launch.endpoint = Endpoint{"127.0.0.1", port};
}

struct Disagreement {
  const char* name;
  std::function<void(RankSetup&)> change;  // of rank 2
  const char* text;
};

TEST(Rendezvous, NamesADisagreementToBothSides) {
  const Disagreement cases[] = {
      {"world", [](RankSetup& s) { s.launch.world_size = s.launch.local_world_size = 4; }, "rank 2 has world size 4, rank 0 has 3"},
      {"rank", [](RankSetup& s) { s.launch.rank = 1; }, "two processes claim rank 1"},
      {"sp", [](RankSetup& s) { s.options.sequence_parallel = 2; }, "rank 2 has sequence parallelism 2, rank 0 has 1"},
      {"config", [](RankSetup& s) { s.options.config[0] = 9; }, "rank 2 has configuration 090000000000, rank 0 has 000000000000"},
      {"binary", [](RankSetup& s) { s.options.binary[0] = 9; }, "rank 2 has program 090000000000, rank 0 has 000000000000"},
  };
  for (const Disagreement& c : cases) {
    ProcessRanks ranks(3);
    ranks.change([&](RankSetup& setup) {
      setup.options.setup_seconds = 4;  // for rank 1 when it comes after the end of rank 0
      if (setup.launch.rank == 2) c.change(setup);
    });
    ranks.start_all(barrier);
    const auto ends = ranks.wait(20);
    int named = 0;
    for (const RankEnd& end : ends) {
      EXPECT_EQ(end.code, 76) << c.name << ": " << end.message;
      named += end.message.find(c.text) != std::string::npos;
    }
    EXPECT_GE(named, 2) << c.name << ": " << ends[0].message << " | " << ends[1].message << " | " << ends[2].message;
    EXPECT_THAT(ends[0].message, HasSubstr(c.text)) << c.name;
  }
}

TEST(Rendezvous, MixedProgramsAreAWarningWhenAllowed) {
  ProcessRanks ranks(2);
  ranks.change([](RankSetup& setup) {
    setup.options.allow_mixed_binaries = true;
    setup.options.binary[0] = static_cast<uint8_t>(setup.launch.rank);
  });
  ranks.start_all(barrier);
  for (const RankEnd& end : ranks.wait(20)) EXPECT_EQ(end.code, 0) << end.message;
}

TEST(Rendezvous, ListsTheMissingRanks) {
  ProcessRanks ranks(5);
  ranks.change([](RankSetup& setup) { setup.options.setup_seconds = 1; });
  for (const int rank : {0, 2}) ranks.start(rank, barrier);
  for (const RankEnd& end : ranks.wait(20)) {
    EXPECT_EQ(end.code, 76);
    EXPECT_THAT(end.message, HasSubstr("of 5 ranks these have not joined within 1 s: 1, 3, 4"));
    EXPECT_LT(end.seconds, 4);
  }
}

TEST(Rendezvous, ALateDuplicateLeavesTheRunAlone) {
  ProcessRanks ranks(2);
  const auto slow = [](Communicator& world) {
    world.barrier({});
    ::usleep(1'000'000);
    world.barrier({});
    return "";
  };
  ranks.start_all(slow);
  ::usleep(400'000);
  ranks.change([](RankSetup& setup) { setup.options.setup_seconds = 0.3; });
  ranks.start(1, slow);
  ranks.start(0, slow);
  const auto ends = ranks.wait(20);
  EXPECT_EQ(ends[0].code, 0) << ends[0].message;
  EXPECT_EQ(ends[1].code, 0) << ends[1].message;
  EXPECT_EQ(ends[2].code, 76);
  EXPECT_THAT(ends[2].message, HasSubstr("two processes claim rank 1"));
  EXPECT_EQ(ends[3].code, 76);
  EXPECT_THAT(ends[3].message, HasSubstr("two processes claim rank 0"));
}

TEST(Rendezvous, AWrongSecretNeverJoins) {
  ProcessRanks ranks(2);
  ranks.change([](RankSetup& setup) {
    setup.options.setup_seconds = 1;
    ::setenv("LONGLORA_SECRET", std::string(64, setup.launch.rank == 0 ? 'a' : 'b').c_str(), 1);  // in the child
  });
  ranks.start_all(barrier);
  const auto ends = ranks.wait(20);
  EXPECT_THAT(ends[0].message, HasSubstr("these have not joined within 1 s: 1"));
  EXPECT_THAT(ends[1].message, HasSubstr("rank 0 refused this rank: the secret differs"));
}

TEST(Rendezvous, FilesOfADeadRunAreNotInTheWay) {
  ProcessRanks first(2);
  first.start(0, barrier);
  ::usleep(300'000);
  ::kill(first.pid(0), SIGKILL);
  first.wait(10);
  EXPECT_TRUE(fs::exists(user_folder() / (first.run_id() + ".sock")));  // it left them
  EXPECT_TRUE(fs::exists(user_folder() / (first.run_id() + ".secret")));
  ProcessRanks again(2);
  again.change([&](RankSetup& setup) { setup.launch.run_id = first.run_id(); });
  ::setenv("XDG_RUNTIME_DIR", first.folder().path().c_str(), 1);
  again.start(1, barrier);  // before rank 0: it finds the stale files
  ::usleep(100'000);
  again.start(0, barrier);
  for (const RankEnd& end : again.wait(20)) EXPECT_EQ(end.code, 0) << end.message;
  size_t left = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(user_folder())) ++left;
  EXPECT_EQ(left, 0u);
}

TEST(Rendezvous, TheFolderIsTheUsersAlone) {
  const TempDir folder;
  const SetVariable runtime("XDG_RUNTIME_DIR", folder.path().string());
  const fs::path ours = user_folder();
  struct stat status {};
  ASSERT_EQ(::stat(ours.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  ASSERT_EQ(::chmod(ours.c_str(), 0755), 0);
  EXPECT_EQ(kind_of([] { user_folder(); }), ErrorKind::permission);
  fs::remove(ours);
  fs::create_directory_symlink("/tmp", ours);
  EXPECT_EQ(kind_of([] { user_folder(); }), ErrorKind::permission);
}

TEST(Rendezvous, RunIdsBecomeShortHarmlessNames) {
  EXPECT_EQ(file_name_of("slurm_17-0"), "slurm_17-0");
  for (const std::string& id : {std::string("../../etc/passwd"), std::string(128, 'x'), std::string("a b"), std::string()}) {
    const std::string name = file_name_of(id);
    EXPECT_LE(name.size(), 40u);
    EXPECT_EQ(name.find_first_of("/ ."), std::string::npos) << name;
  }
  EXPECT_NE(file_name_of("a/b"), file_name_of("a.b"));
}

TEST(Secret, ComesFromWhereItIsSafe) {
  const TempDir folder;
  const fs::path file = folder.write("secret", kSecret + "\n");
  const SetVariable variable("LONGLORA_SECRET_FILE", file.string());
  ASSERT_EQ(::chmod(file.c_str(), 0640), 0);
  EXPECT_THAT(error_of([] { secret_of_environment(); }), HasSubstr("mode 0640"));
  ASSERT_EQ(::chmod(file.c_str(), 0600), 0);
  EXPECT_EQ(to_hex(*secret_of_environment()), kSecret);
  folder.write("secret", "short");
  ASSERT_EQ(::chmod(file.c_str(), 0600), 0);
  EXPECT_EQ(kind_of([] { secret_of_environment(); }), ErrorKind::config);
  {
    const SetVariable text("LONGLORA_SECRET", std::string(64, 'B'));
    EXPECT_EQ(to_hex(*secret_of_environment()), std::string(64, 'b'));
  }
  ::setenv("LONGLORA_SECRET_FILE", "/dev/null", 1);
  EXPECT_THAT(error_of([] { secret_of_environment(); }), HasSubstr("not a regular file"));
}

TEST(Secret, SeveralHostsWithoutOneAreRefusedWithTheCommands) {
  RankSetup setup = ProcessRanks(2).setup_of(0);
  over_tcp(setup, 29618);
  for (const int rank : {0, 1}) {
    setup.launch.rank = rank;
    const auto join = [&] { join_world(setup.launch, setup.options); };
    EXPECT_EQ(kind_of(join), ErrorKind::config);
    EXPECT_THAT(details_of(join), testing::ElementsAre(HasSubstr("openssl rand -hex 32"), HasSubstr("export LONGLORA_SECRET_FILE=")));
  }
}

/// Local addresses of listening sockets that belong to `pid`, as /proc/net/tcp prints them.
std::vector<std::string> listening_tcp(pid_t pid) {
  std::set<std::string> inodes;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  std::vector<std::string> found;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
      std::istringstream fields(line);
      std::string slot, local, remote, state, queue, timer, retransmit, uid, timeout, inode;
      fields >> slot >> local >> remote >> state >> queue >> timer >> retransmit >> uid >> timeout >> inode;
      if (state == "0A" && inodes.contains(inode)) found.push_back(local);
    }
  }
  return found;
}

std::string wait_for_end(Communicator& world) {
  world.barrier({});
  ::usleep(700'000);
  world.barrier({});
  return "";
}

TEST(Rendezvous, NothingListensOnAPortOnOneHost) {
  ProcessRanks ranks(2);
  ranks.start_all(wait_for_end);
  ::usleep(400'000);
  for (const size_t rank : {0, 1}) EXPECT_THAT(listening_tcp(ranks.pid(rank)), testing::IsEmpty());
  for (const RankEnd& end : ranks.wait(20)) EXPECT_EQ(end.code, 0) << end.message;
}

TEST(Rendezvous, OnlyTheChosenAddressIsBound) {
  const SetVariable secret("LONGLORA_SECRET", kSecret);
  for (const char* interface : {"", "lo", "127.0.0.1"}) {
    ProcessRanks ranks(2);
    ranks.change([&](RankSetup& setup) {
      over_tcp(setup, 29619);
      setup.options.interface = interface;
    });
    ranks.start_all(wait_for_end);
    ::usleep(400'000);
    EXPECT_THAT(listening_tcp(ranks.pid(0)), testing::ElementsAre("0100007F:73B3")) << interface;
    EXPECT_THAT(listening_tcp(ranks.pid(1)), testing::ElementsAre(testing::StartsWith("0100007F:"))) << interface;
    for (const RankEnd& end : ranks.wait(20)) EXPECT_EQ(end.code, 0) << end.message;
  }
  RankSetup setup = ProcessRanks(2).setup_of(0);
  over_tcp(setup, 29619);
  setup.options.interface = "no-such-interface";
  EXPECT_EQ(kind_of([&] { join_world(setup.launch, setup.options); }), ErrorKind::config);
}

/// A store in files: what torchrun's would be for one test.
class FileStore : public BootstrapStore {
 public:
  explicit FileStore(const fs::path& folder) : folder_(folder) {}
  void set(const std::string& key, const std::string& value) override { write_file_atomic(file(key), value); }
  std::string get(const std::string& key, double seconds) override {
    for (const double deadline = monotonic_seconds() + seconds; monotonic_seconds() < deadline; ::usleep(5000))
      if (fs::exists(file(key))) return read_file(file(key), 4096);
    fail(ErrorKind::peer, "no key", key, "wait");
  }

 private:
  fs::path file(const std::string& key) const { return folder_ / to_hex(sha256(key)); }
  fs::path folder_;
};

TEST(Rendezvous, MeetsThroughAnAgentsStore) {
  const TempDir folder;
  FileStore store(folder.path());
  ProcessRanks ranks(3);
  ranks.change([&](RankSetup& setup) {
    over_tcp(setup, 1);  // the agent's port, which is not ours
    setup.launch.agent_store = true;
    setup.options.store = &store;
  });
  ranks.start_all(barrier);
  for (const RankEnd& end : ranks.wait(20)) EXPECT_EQ(end.code, 0) << end.message;
}

/// What a stranger does to a port.
void attack(uint16_t port, int kind, const std::string& replay, std::vector<Descriptor>& kept) {
  Descriptor socket = connect_to(*Address::parse("127.0.0.1 " + std::to_string(port)), 1);
  if (!socket) return;
  const std::string huge = encode_frame(FrameType::hello, 0, "").replace(8, 4, "\xff\xff\xff\x7f");
  switch (kind % 6) {
    case 0:
      break;  // silence
    case 1:
      send_some(socket.get(), replay.substr(0, 20));
      break;  // a part of a frame, then silence
    case 2:
      send_some(socket.get(), huge);
      return;
    case 3:
      send_some(socket.get(), replay);
      return;  // a HELLO that was good for another nonce
    case 4:
      send_some(socket.get(), std::string(4096, 'L'));
      return;
    default:
      send_some(socket.get(), "GET / HTTP/1.1\r\n\r\n");
      return;
  }
  kept.push_back(std::move(socket));
  if (kept.size() > 200) kept.erase(kept.begin(), kept.begin() + 100);
}

uint64_t resident_bytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  uint64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST(Rendezvous, TwentyThousandStrangersChangeNothing) {
  const SetVariable secret("LONGLORA_SECRET", kSecret);
  constexpr uint16_t kPort = 29620;
  ProcessRanks ranks(3);
  ranks.change([](RankSetup& setup) { over_tcp(setup, kPort); });
  Hello hello;
  hello.run_id = ranks.run_id();
  hello.rank = 1, hello.world = 3, hello.sequence_parallel = 1;
  hello.proof = client_proof(RunKeys(parse_secret(kSecret, "test")).control, Digest{}, hello);
  const std::string replay = encode_frame(FrameType::hello, 0, encode_hello(hello));
  TempDir folder;
  const fs::path stop = folder / "stop";
  double begun = monotonic_seconds();
  const auto body = [&](Communicator& world) {
    const double joined = monotonic_seconds() - begun;
    std::vector<int64_t> values(1);
    for (int64_t i = 0; values[0] == 0; ++i) {  // until all know that the strangers are through
      values[0] = world.rank() == 0 && fs::exists(stop);
      world.max(values);
    }
    return std::to_string(joined);
  };
  std::vector<Descriptor> kept;
  ranks.start(0, body);
  for (int i = 0; i < 2000; ++i) attack(kPort, i, replay, kept);  // before the others come
  const uint64_t before = resident_bytes(ranks.pid(0));
  begun = monotonic_seconds();
  ranks.start(1, body);
  ranks.start(2, body);
  for (int i = 2000; i < 20'000; ++i) attack(kPort, i, replay, kept);
  const double took = monotonic_seconds() - begun;
  const uint64_t after = resident_bytes(ranks.pid(0));
  folder.write("stop", "");
  const auto ends = ranks.wait(20);
  for (const RankEnd& end : ends) EXPECT_EQ(end.code, 0) << end.message;
  for (const size_t rank : {1, 2}) EXPECT_LT(std::stod(ends[rank].message), 3) << "seconds to join among strangers";
  EXPECT_LT(after, before + (16u << 20));
  printf("18,000 strangers in %.1f s, joined after %s s, resident memory of rank 0 %+.1f MiB\n", took, ends[2].message.c_str(),
         (static_cast<double>(after) - static_cast<double>(before)) / 1048576);
}

}  // namespace
}  // namespace longlora::dist
