// Recorded environments of every launcher, and what must be refused: check X1 of the launch table.
#include "longlora/dist/launch_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "longlora/core/error.h"
#include "support/error_of.h"

namespace longlora::dist {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr ParentProcess kParent{.pid = 4711, .start_ticks = 1234567};

LaunchInfo detect(const Environment& environment, const LaunchFlags& flags = {}, std::string_view output_dir = "out/run") {
  return detect_launch(flags, environment, output_dir, kParent);
}

Environment with(Environment base, const Environment& changes) {
  for (const auto& [name, value] : changes) base[name] = value;
  return base;
}
Environment without(Environment base, std::initializer_list<const char*> names) {
  for (const char* name : names) base.erase(name);
  return base;
}

// torchrun --nnodes 2 --nproc-per-node 4, second node
const Environment kTorchrun = {{"LOCAL_RANK", "1"},
                               {"RANK", "5"},
                               {"GROUP_RANK", "1"},
                               {"ROLE_RANK", "5"},
                               {"ROLE_NAME", "default"},
                               {"LOCAL_WORLD_SIZE", "4"},
                               {"WORLD_SIZE", "8"},
                               {"GROUP_WORLD_SIZE", "2"},
                               {"ROLE_WORLD_SIZE", "8"},
                               {"MASTER_ADDR", "node01"},
                               {"MASTER_PORT", "29500"},
                               {"TORCHELASTIC_RESTART_COUNT", "2"},
                               {"TORCHELASTIC_MAX_RESTARTS", "3"},
                               {"TORCHELASTIC_RUN_ID", "8c2d7a1e-0b1f-4f43-9f5e-2b6b7f3c1a00"},
                               {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                               {"TORCHELASTIC_ERROR_FILE", "/tmp/torchelastic_x/attempt_2/1/error.json"},
                               {"OMP_NUM_THREADS", "1"}};
// torchrun --standalone --nproc-per-node 2
const Environment kStandalone = with(kTorchrun, {{"RANK", "1"},
                                                 {"WORLD_SIZE", "2"},
                                                 {"LOCAL_WORLD_SIZE", "2"},
                                                 {"GROUP_RANK", "0"},
                                                 {"GROUP_WORLD_SIZE", "1"},
                                                 {"MASTER_ADDR", "localhost"},
                                                 {"TORCHELASTIC_RESTART_COUNT", "0"}});
const Environment kOwn = {{"RANK", "1"},
                          {"WORLD_SIZE", "2"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "2"},
                          {"GROUP_RANK", "0"},
                          {"GROUP_WORLD_SIZE", "1"},
                          {"MASTER_ADDR", "127.0.0.1"},
                          {"MASTER_PORT", "29500"},
                          {"LONGLORA_LAUNCHER", "1"},
                          {"LONGLORA_RUN_ID", "b16b00b5"},
                          {"LONGLORA_SECRET", std::string(64, 'a')}};
// mpirun -np 4 (Open MPI 5)
const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "3"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "3"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"OMPI_COMM_WORLD_NODE_RANK", "3"},
                              {"OMPI_UNIVERSE_SIZE", "4"},
                              {"OMPI_MCA_initial_wdir", "/home/u"},
                              {"PMIX_RANK", "3"},
                              {"PMIX_NAMESPACE", "prterun-host-4242@1"}};
// mpirun -np 8 --map-by ppr:4:node -x MASTER_ADDR=node01 -x MASTER_PORT=29500
const Environment kOpenMpiTwoNodes = with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "6"},
                                                     {"OMPI_COMM_WORLD_SIZE", "8"},
                                                     {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
                                                     {"OMPI_COMM_WORLD_NODE_RANK", "2"},
                                                     {"MASTER_ADDR", "node01"},
                                                     {"MASTER_PORT", "29500"}});
// mpiexec -n 2 (MPICH 4, hydra)
const Environment kMpich = {{"PMI_RANK", "1"},        {"PMI_SIZE", "2"},        {"PMI_FD", "9"},
                            {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}, {"GFORTRAN_UNBUFFERED_PRECONNECTED", "y"}};
const Environment kCray = {{"PMI_RANK", "5"},       {"PMI_SIZE", "8"},         {"PMI_LOCAL_RANK", "1"},
                           {"PMI_LOCAL_SIZE", "4"}, {"MASTER_ADDR", "nid001"}, {"MASTER_PORT", "29500"}};
// srun -N 2 --ntasks-per-node 4
const Environment kSrun = {{"SLURM_PROCID", "6"},
                           {"SLURM_NTASKS", "8"},
                           {"SLURM_NPROCS", "8"},
                           {"SLURM_LOCALID", "2"},
                           {"SLURM_NODEID", "1"},
                           {"SLURM_STEP_ID", "0"},
                           {"SLURM_STEPID", "0"},
                           {"SLURM_JOB_ID", "123456"},
                           {"SLURM_JOB_NAME", "longlora"},
                           {"SLURM_NTASKS_PER_NODE", "4"},
                           {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                           {"SLURM_TASKS_PER_NODE", "4(x2)"},
                           {"SLURM_NNODES", "2"},
                           {"SLURM_STEP_NUM_NODES", "2"},
                           {"SLURM_JOB_NODELIST", "a[1-3,7],b02"},
                           {"SLURM_STEP_NODELIST", "a[2-3]"}};
// salloc -n 8, then a program without srun
const Environment kAllocation = {{"SLURM_NTASKS", "8"},        {"SLURM_JOB_ID", "123456"}, {"SLURM_JOB_NAME", "interactive"},
                                 {"SLURM_JOB_NODELIST", "a1"}, {"SLURM_NNODES", "1"},      {"SLURM_TASKS_PER_NODE", "8"}};
// salloc with use_interactive_step: the shell is a task of a special step
const Environment kInteractiveStep =
    with(kAllocation, {{"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "4294967290"}, {"SLURM_JOB_NAME", "mine"}});
const Environment kBatchScript = with(kAllocation, {{"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}, {"SLURM_JOB_NAME", "longlora"}});

LaunchFlags flags_of(std::optional<int> rank, std::optional<int> size) {
  LaunchFlags flags;
  flags.rank = rank, flags.world_size = size;
  return flags;
}
LaunchFlags on_two_hosts(int rank, int size, int local_rank, int local_size) {
  LaunchFlags flags = flags_of(rank, size);
  flags.local_rank = local_rank, flags.local_world_size = local_size;
  flags.master_addr = "10.0.0.7", flags.master_port = 29500;
  return flags;
}

struct Recorded {
  const char* name;
  Environment environment;
  LaunchFlags flags;
  const char* line;      // of describe()
  const char* endpoint;  // "" when none
  const char* run_id;    // beginning
};

const std::vector<Recorded>& recorded() {
  static const std::vector<Recorded> rows = {
      {"nothing", {{"PATH", "/bin"}}, {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"endpoint in a profile", {{"MASTER_ADDR", "x"}}, {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"torchrun", kTorchrun, {}, "torchrun rank 5/8 local 1/4 node 1", "node01:29500", "torchrun-8c2d7a1e-0b1f-4f43-9f5e-2b6b7f3c1a00-2"},
      {"standalone", kStandalone, {}, "torchrun rank 1/2 local 1/2 node 0", "localhost:29500", "torchrun-8c2d7a1e"},
      {"torchrun of one",
       with(kStandalone, {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}}),
       {},
       "torchrun rank 0/1 local 0/1 node 0",
       "localhost:29500",
       ""},
      {"torchrun's default id",
       with(kStandalone, {{"TORCHELASTIC_RUN_ID", "none"}}),
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "localhost:29500",
       "torchrun-none-29500-0"},
      {"strange id",
       with(kStandalone, {{"TORCHELASTIC_RUN_ID", "../../etc"}}),
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "localhost:29500",
       "id-"},
      {"no local rank, loopback",
       {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "1"}},
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "127.0.0.1:1",
       "parent-"},
      {"no local rank, local size",
       {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "1"}},
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "h:1",
       "parent-"},
      {"no endpoint, one host",
       {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}},
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "",
       "parent-"},
      {"own", kOwn, {}, "own launcher rank 1/2 local 1/2 node 0", "127.0.0.1:29500", "b16b00b5"},
      {"torchrun inside own",
       with(kStandalone, {{"LONGLORA_LAUNCHER", "1"}}),
       {},
       "torchrun rank 1/2 local 1/2 node 0",
       "localhost:29500",
       "torchrun-"},
      {"Open MPI", kOpenMpi, {}, "Open MPI rank 3/4 local 3/4 node 0", "", "id-"},
      {"Open MPI, two nodes", kOpenMpiTwoNodes, {}, "Open MPI rank 6/8 local 2/4 node 1", "node01:29500", "id-"},
      {"Open MPI in a SLURM allocation", with(kOpenMpi, kBatchScript), {}, "Open MPI rank 3/4 local 3/4 node 0", "", "id-"},
      {"Open MPI started by srun's daemons", with(kOpenMpi, kSrun), {}, "Open MPI rank 3/4 local 3/4 node 0", "", "id-"},
      {"MPICH", kMpich, {}, "MPICH rank 1/2 local 1/2 node 0", "", "parent-"},
      {"MPICH under srun's bootstrap", with(kMpich, kSrun), {}, "MPICH rank 1/2 local 1/2 node 0", "", "parent-"},
      {"PMI without local numbers, loopback",
       {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "80"}},
       {},
       "MPICH rank 1/2 local 1/2 node 0",
       "::1:80",
       "parent-"},
      {"PMI of one", {{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}}, {}, "MPICH rank 0/1 local 0/1 node 0", "", ""},
      {"Cray", kCray, {}, "MPICH rank 5/8 local 1/4 node 1", "nid001:29500", "endpoint-"},
      {"srun", kSrun, {}, "SLURM rank 6/8 local 2/4 node 1", "a2:23456", "slurm-123456.0"},
      {"srun, job's list", without(kSrun, {"SLURM_STEP_NODELIST"}), {}, "SLURM rank 6/8 local 2/4 node 1", "a1:23456", "slurm-"},
      {"srun, per node only", without(kSrun, {"SLURM_STEP_TASKS_PER_NODE"}), {}, "SLURM rank 6/8 local 2/4 node 1", "a2:23456", "slurm-"},
      {"srun, exported port", with(kSrun, {{"MASTER_PORT", "4000"}}), {}, "SLURM rank 6/8 local 2/4 node 1", "a2:4000", "slurm-"},
      {"srun, exported host", with(kSrun, {{"MASTER_ADDR", "ib0"}}), {}, "SLURM rank 6/8 local 2/4 node 1", "ib0:23456", "slurm-"},
      {"srun, uneven", with(kSrun, {{"SLURM_STEP_TASKS_PER_NODE", "5,3"}}), {}, "SLURM rank 6/8 local 2/3 node 1", "a2:23456", "slurm-"},
      {"srun, one node",
       without(with(kSrun, {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "2"}, {"SLURM_NODEID", "0"}, {"SLURM_STEP_NUM_NODES", "1"}}),
               {"SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"}),
       {},
       "SLURM rank 2/4 local 2/4 node 0",
       "",
       "slurm-123456.0"},
      {"interactive allocation", kAllocation, {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"interactive step", kInteractiveStep, {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"srun --pty bash", with(kSrun, {{"SLURM_JOB_NAME", "bash"}}), {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"batch script", kBatchScript, {}, "single rank 0/1 local 0/1 node 0", "", ""},
      {"flags", {}, flags_of(1, 2), "flags rank 1/2 local 1/2 node 0", "", "parent-"},
      {"flags on two hosts", {}, on_two_hosts(3, 4, 1, 2), "flags rank 3/4 local 1/2 node 1", "10.0.0.7:29500", "endpoint-"},
      {"flags that agree", kOpenMpi, flags_of(3, 4), "flags rank 3/4 local 3/4 node 0", "", "parent-"},
      {"torchrun in mpirun, one process a node",
       with(kTorchrun, {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}),
       {},
       "torchrun rank 5/8 local 1/4 node 1",
       "node01:29500",
       "torchrun-"},
      {"torchrun in mpiexec, one process a node",
       with(kTorchrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}),
       {},
       "torchrun rank 5/8 local 1/4 node 1",
       "node01:29500",
       "torchrun-"},
      {"flags, torchrun and mpirun", with(kTorchrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}), on_two_hosts(5, 8, 1, 4),
       "flags rank 5/8 local 1/4 node 1", "10.0.0.7:29500", "endpoint-"},
      {"torchrun under srun", with(kTorchrun, kSrun), {}, "torchrun rank 5/8 local 1/4 node 1", "node01:29500", "torchrun-"},
      {"run id of the user",
       with(kTorchrun, {{"LONGLORA_RUN_ID", "monday-7"}}),
       {},
       "torchrun rank 5/8 local 1/4 node 1",
       "node01:29500",
       "monday-7"},
  };
  return rows;
}

TEST(DetectLaunch, FindsTheRowOfEveryRecordedEnvironment) {
  for (const Recorded& row : recorded()) {
    SCOPED_TRACE(row.name);
    LaunchInfo info;
    ASSERT_EQ(error_of([&] { info = detect(row.environment, row.flags); }), "");
    EXPECT_EQ(describe(info), std::string("launch: ") + row.line);
    EXPECT_EQ(info.endpoint ? info.endpoint->host + ":" + std::to_string(info.endpoint->port) : "", row.endpoint);
    EXPECT_TRUE(info.run_id.starts_with(row.run_id)) << info.run_id;
    EXPECT_EQ(info.run_id.empty(), info.world_size == 1) << info.run_id;
    EXPECT_LE(info.run_id.size(), 64u);
    EXPECT_EQ(info.run_id.find('/'), std::string::npos);
    EXPECT_EQ(info.agent_store, info.source == LaunchSource::torchrun && row.environment.contains("TORCHELASTIC_RUN_ID"));
  }
}

struct Refused {
  Environment environment;
  LaunchFlags flags;
  std::vector<std::string> named;  // in the message
};

/// Every numeric variable of every launcher with values that are no number, and the sets with one variable missing.
std::vector<Refused> malformed_and_partial() {
  struct Set {
    const Environment& base;
    std::vector<const char*> numbers, needed;
  };
  const std::vector<Set> sets = {
      {kTorchrun,
       {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_PORT"},
       {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}},
      {kOpenMpiTwoNodes,
       {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "MASTER_PORT"},
       {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "MASTER_ADDR",
        "MASTER_PORT"}},
      {kMpich,
       {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
       {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"}},
      {kCray, {"PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"}, {"PMI_LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}},
      {kSrun,
       {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_STEP_TASKS_PER_NODE"},
       {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID"}},
  };
  std::vector<Refused> cases;
  for (const Set& set : sets) {
    for (const char* name : set.numbers)
      for (const char* value : {"", "x", "-1", "1.5", "99999999999999999999"})
        cases.push_back({with(set.base, {{name, value}}), {}, {name}});
    for (const char* name : set.needed) cases.push_back({without(set.base, {name}), {}, {name}});
  }
  return cases;
}

std::vector<Refused> contradictions() {
  LaunchFlags half_endpoint = on_two_hosts(1, 4, 1, 2), local_only, no_host = on_two_hosts(3, 4, 1, 2), bad_port = on_two_hosts(3, 4, 1, 2);
  half_endpoint.master_port.reset();
  local_only.local_rank = 1;
  no_host.master_addr.reset(), no_host.master_port.reset();
  bad_port.master_port = 65'536;
  LaunchFlags bad_host = on_two_hosts(3, 4, 1, 2), no_local = on_two_hosts(3, 4, 1, 2);
  bad_host.master_addr = "two words";
  no_local.local_rank.reset(), no_local.local_world_size.reset();
  return {
      {with(kOpenMpi, {{"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "3"}}), {}, {"WORLD_SIZE=8", "OMPI_COMM_WORLD_SIZE=4"}},
      {with(kOpenMpi, {{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "2"}}), {}, {"RANK=2", "OMPI_COMM_WORLD_RANK=3"}},
      {with(kOpenMpi, {{"PMI_RANK", "3"}, {"PMI_SIZE", "2"}}), {}, {"PMI_RANK=3", "PMI_SIZE=2"}},
      {with(kOpenMpi, kMpich), {}, {"OMPI_COMM_WORLD_RANK=3", "PMI_RANK=1"}},
      {with(with(kMpich, kTorchrun), {{"PMI_RANK", "0"}}), {}, {"RANK=5", "PMI_RANK=0"}},
      {with(kTorchrun, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}}), {}, {"OMPI_COMM_WORLD_RANK=0", "RANK=5"}},
      {with(kTorchrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}), {}, {"PMI_SIZE=3"}},
      {kOpenMpi, flags_of(2, 4), {"--rank 2", "OMPI_COMM_WORLD_RANK=3"}},
      {kMpich, flags_of(1, 3), {"--world-size 3", "PMI_SIZE=2"}},
      {kTorchrun, flags_of(5, 4), {"--rank 5", "--world-size 4"}},
      {kTorchrun, flags_of(1, 2), {"--rank 1", "RANK=5"}},  // equal to GROUP_RANK: the exception is for outer launchers only
      {{}, flags_of(2, 2), {"--rank 2", "--world-size 2"}},
      {{}, flags_of(-1, 2), {"--rank -1"}},
      {{}, flags_of(0, 0), {"--world-size 0"}},
      {{}, flags_of(0, 70'000), {"--world-size 70000"}},
      {{}, flags_of(1, std::nullopt), {"--world-size", "--rank 1"}},
      {{}, flags_of(std::nullopt, 2), {"--rank", "--world-size 2"}},
      {kTorchrun, flags_of(std::nullopt, 8), {"--rank", "--world-size 8"}},
      {{}, half_endpoint, {"--master-port"}},
      {{}, local_only, {"--rank"}},
      {{}, no_host, {"MASTER_ADDR", "--master-addr HOST --master-port 29500"}},
      {{}, bad_port, {"--master-port 65536"}},
      {{}, bad_host, {"--master-addr", "two words"}},
      {{}, no_local, {"--local-rank", "--local-world-size"}},
      {{}, on_two_hosts(3, 4, 2, 2), {"--local-rank 2", "--local-world-size 2"}},
      {{}, on_two_hosts(3, 4, 0, 5), {"--local-world-size 5", "--world-size 4"}},
      {{}, on_two_hosts(3, 4, 1, 4), {"--local-rank 1", "--rank 3"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "1"}}, {}, {"LOCAL_RANK", "MASTER_ADDR"}},
      {{{"LOCAL_RANK", "0"}}, {}, {"RANK", "WORLD_SIZE"}},
      {{{"RANK", "8"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "0"}}, {}, {"RANK=8", "WORLD_SIZE=8"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "0"}, {"LOCAL_RANK", "0"}}, {}, {"WORLD_SIZE=0"}},
      {with(kTorchrun, {{"LOCAL_RANK", "4"}}), {}, {"LOCAL_RANK=4", "LOCAL_WORLD_SIZE=4"}},
      {with(kTorchrun, {{"LOCAL_WORLD_SIZE", "9"}}), {}, {"LOCAL_WORLD_SIZE=9", "WORLD_SIZE=8"}},
      {with(kTorchrun, {{"LOCAL_WORLD_SIZE", "0"}}), {}, {"LOCAL_WORLD_SIZE=0"}},
      {with(kTorchrun, {{"GROUP_RANK", "2"}}), {}, {"GROUP_RANK=2", "GROUP_WORLD_SIZE=2"}},
      {with(kTorchrun, {{"MASTER_PORT", "0"}}), {}, {"MASTER_PORT=0"}},
      {with(kTorchrun, {{"MASTER_PORT", "65536"}}), {}, {"MASTER_PORT=65536"}},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}), {}, {"MASTER_ADDR"}},
      {with(kTorchrun, {{"MASTER_ADDR", "a b\n"}}), {}, {"MASTER_ADDR", "\\x0a"}},
      {with(kTorchrun, {{"MASTER_ADDR", std::string(256, 'a')}}), {}, {"MASTER_ADDR"}},
      {with(kTorchrun, {{"LONGLORA_RUN_ID", ""}}), {}, {"LONGLORA_RUN_ID"}},
      {with(kStandalone, {{"LOCAL_RANK", "0"}}), {}, {"LOCAL_RANK=0", "RANK=1"}},
      {without(kOpenMpiTwoNodes, {"MASTER_ADDR", "MASTER_PORT"}), {}, {"mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ..."}},
      {without(kCray, {"MASTER_ADDR", "MASTER_PORT"}), {}, {"mpiexec -genv MASTER_ADDR HOST -genv MASTER_PORT 29500 ..."}},
      {without(kTorchrun, {"MASTER_ADDR", "MASTER_PORT"}), {}, {"MASTER_ADDR", "MASTER_PORT"}},
      {without(kMpich, {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"}), {}, {"MPI_LOCALRANKID", "PMI_RANK=1"}},
      {without(kOpenMpi, {"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"}), {}, {"OMPI_COMM_WORLD_LOCAL_RANK"}},
      {without(kSrun, {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"}), {}, {"SLURM_JOB_NODELIST"}},
      {with(kSrun, {{"SLURM_STEP_NODELIST", "a[3-1]"}}), {}, {"a[3-1]"}},
      {with(kSrun, {{"SLURM_PROCID", "8"}}), {}, {"SLURM_PROCID=8", "SLURM_NTASKS=8"}},
      {with(kSrun, {{"SLURM_LOCALID", "4"}}), {}, {"SLURM_LOCALID=4"}},
      {with(kSrun, {{"SLURM_NODEID", "2"}}), {}, {"SLURM_STEP_TASKS_PER_NODE"}},
      {with(kSrun, {{"SLURM_STEP_TASKS_PER_NODE", "4(x2"}}), {}, {"SLURM_STEP_TASKS_PER_NODE"}},
      {with(kSrun, {{"SLURM_STEP_TASKS_PER_NODE", "0"}}), {}, {"SLURM_STEP_TASKS_PER_NODE"}},
      {with(kSrun, {{"MASTER_PORT", "70000"}}), {}, {"MASTER_PORT"}},
  };
}

TEST(DetectLaunch, RefusesWhatContradictsOrIsPartialByName) {
  std::vector<Refused> cases = malformed_and_partial();
  const std::vector<Refused> more = contradictions();
  cases.insert(cases.end(), more.begin(), more.end());
  EXPECT_GE(cases.size(), 150u);
  for (const Refused& refused : cases) {
    std::string shown;
    for (const auto& [name, value] : refused.environment) shown += name + "=" + value + " ";
    SCOPED_TRACE(shown);
    const std::optional<Error> error = thrown_by([&] { detect(refused.environment, refused.flags); });
    ASSERT_TRUE(error.has_value()) << refused.named.front();
    EXPECT_EQ(error->kind, ErrorKind::config);
    for (const std::string& name : refused.named) EXPECT_THAT(error->what(), HasSubstr(name));
  }
}

TEST(DetectLaunch, LastRunIdDependsOnParentAndFolderOnly) {
  const auto id = [](const char* rank, const ParentProcess& parent, std::string_view folder) {
    return detect_launch({}, with(kMpich, {{"PMI_RANK", rank}, {"MPI_LOCALRANKID", rank}}), folder, parent).run_id;
  };
  const std::string first = id("0", kParent, "out");
  EXPECT_EQ(id("1", kParent, "out"), first);
  EXPECT_NE(id("0", {kParent.pid + 1, kParent.start_ticks}, "out"), first);
  EXPECT_NE(id("0", {kParent.pid, kParent.start_ticks + 1}, "out"), first);
  EXPECT_NE(id("0", kParent, "other"), first);
}

TEST(DetectLaunch, FlagsTypedIntoTwoShellsMeetAtTheEndpoint) {
  LaunchFlags flags = flags_of(0, 2);
  flags.master_addr = "127.0.0.1", flags.master_port = 29500;
  const std::string first = detect_launch(flags, {}, "out", kParent).run_id;
  flags.rank = 1;
  EXPECT_EQ(detect_launch(flags, {}, "out", {99, 1}).run_id, first);
  flags.master_port = 29501;
  EXPECT_NE(detect_launch(flags, {}, "out", kParent).run_id, first);
}

TEST(ParentProcess, IsReadFromProc) {
  const ParentProcess parent = parent_process();
  EXPECT_EQ(parent.pid, ::getppid());
  EXPECT_GT(parent.start_ticks, 0u);
}

TEST(ExpandNodeList, ExpandsInOrder) {
  EXPECT_THAT(expand_node_list("a[1-3,7],b02"), ElementsAre("a1", "a2", "a3", "a7", "b02"));
  EXPECT_THAT(expand_node_list("node-1.cluster"), ElementsAre("node-1.cluster"));
  EXPECT_THAT(expand_node_list("n[08-11]"), ElementsAre("n08", "n09", "n10", "n11"));
  EXPECT_THAT(expand_node_list("r[1-2]n[1,3]-ib"), ElementsAre("r1n1-ib", "r1n3-ib", "r2n1-ib", "r2n3-ib"));
  EXPECT_THAT(expand_node_list("[5-6]"), ElementsAre("5", "6"));
  EXPECT_EQ(expand_node_list("n[1-65536]").size(), 65'536u);
}

TEST(ExpandNodeList, RefusesMalformedAndEndlessLists) {
  for (const std::string& text : std::initializer_list<std::string>{"",
                                                                    ",",
                                                                    "a,",
                                                                    ",a",
                                                                    "a,,b",
                                                                    "a[",
                                                                    "a[]",
                                                                    "a[1",
                                                                    "a[1-]",
                                                                    "a[-1]",
                                                                    "a[1-2",
                                                                    "a[1,]",
                                                                    "a[,1]",
                                                                    "a[2-1]",
                                                                    "a[x]",
                                                                    "a]",
                                                                    "a[1]]",
                                                                    "a b",
                                                                    "a;b",
                                                                    "a[1-65537]",
                                                                    "a[1-999999999999999999]",
                                                                    "a[1-9999999999999999999999]",
                                                                    "a[1-300]b[1-300]",
                                                                    "[1][1][1][1][1]",
                                                                    "n[1-65536],x",
                                                                    std::string(256, 'a'),
                                                                    std::string((1 << 20) + 1, 'a'),
                                                                    std::string("a\0b", 3)}) {
    SCOPED_TRACE(text.substr(0, 40));
    EXPECT_EQ(kind_of([&] { expand_node_list(text); }), ErrorKind::config);
  }
}

}  // namespace
}  // namespace longlora::dist
