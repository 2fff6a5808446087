// What is said when nothing fits: every remedy is tried.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "plan/published_models.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Trial {
  ModelConfig model;
  TrainConfig config;
  RunPlan run;
  PlanTarget target;
  MemoryPlan plan() const { return make_memory_plan(model, config, run, target); }
};

/// "A (1.0 GiB), B >= 2.0 GiB or C" without what is needed.
std::vector<std::string> remedies_in(std::string text) {
  EXPECT_EQ(text.rfind("set ", 0), 0u) << text;
  text = std::regex_replace(text.substr(4), std::regex(R"( \([0-9.]+ GiB\))"), "");
  std::vector<std::string> found;
  const std::regex between(", | or ");
  for (std::sregex_token_iterator it(text.begin(), text.end(), between, -1), end; it != end; ++it) found.push_back(*it);
  return found;
}

void apply_one(const std::string& remedy, Trial& t) {
  std::smatch m;
  const auto matches = [&](const char* pattern) { return std::regex_match(remedy, m, std::regex(pattern)); };
  if (remedy == "memory.policy: auto" || remedy == "memory.policy") {  // "memory.policy and memory.halo_streaming: auto"
    t.config.memory.policy = MemoryPolicy::automatic;
  } else if (remedy == "memory.halo_streaming: auto") {
    t.config.memory.halo_streaming = HaloStreaming::automatic;
  } else if (remedy == "dist.shard_weights: auto") {
    t.config.dist.shard_weights = ShardWeights::automatic;
  } else if (remedy == "dist.shard_state: auto") {
    t.config.dist.shard_state = AutoBool::automatic;
  } else if (remedy == "evaluate.every: 0") {
    t.config.evaluate.every = 0;
  } else if (remedy == "attention.full_steps: 0") {
    t.config.attention.full_steps = 0;
  } else if (remedy == "tuning.train_embeddings: false") {
    t.config.tuning.train_embeddings = false;
  } else if (remedy == "train.micro_batch: 1") {
    t.run.accumulation *= t.run.micro_batch;
    t.run.micro_batch = 1;
  } else if (matches(R"(data\.sequence_length: ([0-9]+))")) {
    t.run.sequence_length = std::stoll(m[1]);
    t.run.group = resolve_group(t.config.attention, t.run.sequence_length);
  } else if (matches(R"(memory\.(host|device)_budget >= ([0-9.]+) GiB)")) {
    const bool limited = m[1] == "device" || t.target.device == PlanTarget::Device::cpu;
    (limited ? t.target.budget_bytes : t.target.host_budget_bytes) = in_bytes(std::stod(m[2]));
  } else {
    FAIL() << "unknown remedy " << remedy;
  }
}

/// What a user sees: nothing of it is cut.
void expect_readable(const Error& error) {
  const std::string line = error_line(error);
  EXPECT_EQ(line, "longlora-train: error[memory]: " + std::string(error.what()));
  EXPECT_LE(line.size(), 240u) << line;
}

/// The refusal's remedies, each tried on its own.
std::vector<std::string> tried_remedies(const Trial& trial) {
  const auto error = thrown_by([&] { trial.plan(); });
  if (!error) return {};
  EXPECT_EQ(error->kind, ErrorKind::memory);
  expect_readable(*error);
  EXPECT_THAT(error->what_happened, HasSubstr("GiB"));
  const std::vector<std::string> remedies = remedies_in(error->what_to_do);
  EXPECT_GE(remedies.size(), 1u);
  EXPECT_LE(remedies.size(), 3u);
  for (const std::string& remedy : remedies) {
    Trial changed = trial;
    const std::regex both(" and ");
    for (std::sregex_token_iterator it(remedy.begin(), remedy.end(), both, -1), end; it != end; ++it) apply_one(*it, changed);
    EXPECT_EQ(error_of([&] { changed.plan(); }), "") << remedy;
  }
  return remedies;
}

TEST(Refusal, NamesNeededAndAvailableBytes) {
  const auto error = thrown_by([] { make_memory_plan(llama2_7b(), {}, one_row(102400), gpu_gib(40)); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::memory);
  EXPECT_EQ(error->where, "memory.device_budget");
  EXPECT_EQ(error->what_happened, "needs 42.9 GiB, 40.0 GiB may be used");
  EXPECT_THAT(error->what_to_do, testing::StartsWith("set memory.host_budget >= "));  // nothing of the result changes
  EXPECT_THAT(error->what_to_do, HasSubstr("data.sequence_length: "));
  expect_readable(*error);
}

TEST(Refusal, TheLongestLineIsReadableToo) {
  Trial trial{llama2_70b(), with_memory(MemoryPolicy::save_all, HaloStreaming::off), one_row(512 * 1024), gpu_gib(250)};
  trial.config.dist.shard_weights = ShardWeights::none;
  trial.run.ranks = 8;
  for (double device = 100; device < 2000; device += 50) {
    trial.target = gpu_gib(device, device / 4);
    tried_remedies(trial);
  }
}

// From two half-groups of a row tile on, layers are streamed and need less than shorter rows do: lengths that fit have a gap.
TEST(Refusal, TheLengthIsBelowTheRefusedOne) {
  const auto advised = [](int64_t length) {
    for (const std::string& remedy : tried_remedies({llama2_7b(), {}, one_row(length), gpu_gib(25)}))
      if (remedy.starts_with("data.sequence_length: ")) return std::stoll(remedy.substr(22));
    return -1LL;
  };
  EXPECT_GT(largest_context(llama2_7b(), {}, one_row(8192), gpu_gib(25)), 32768);
  EXPECT_EQ(advised(32000), 29184);
  EXPECT_EQ(advised(40000), 34560);
}

TEST(Refusal, EveryRemedyFitsWhenItIsTaken) {
  int refused = 0;
  for (const ModelConfig& model : {llama2_7b(), llama2_13b()})
    for (const int64_t length : {8192, 102400})
      for (const MemoryPolicy policy : {MemoryPolicy::automatic, MemoryPolicy::save_all, MemoryPolicy::checkpoint_offload})
        for (const HaloStreaming streaming : {HaloStreaming::automatic, HaloStreaming::off, HaloStreaming::on})
          for (const double device : {12.0, 34.0, 70.0})
            for (const double host : {0.0, 16.0}) {
              if (streaming == HaloStreaming::on && length < 32768) continue;  // refused for what it is
              Trial trial{model, with_memory(policy, streaming), one_row(length), gpu_gib(device, host)};
              trial.run.micro_batch = 2;
              refused += tried_remedies(trial).empty() ? 0 : 1;
              trial.target = {PlanTarget::Device::cpu, 4, in_bytes(2 * device)};
              refused += tried_remedies(trial).empty() ? 0 : 1;
            }
  EXPECT_GT(refused, 50);
}

TEST(Refusal, StartsWithWhatChangesNoResult) {
  const auto first = [](MemoryPolicy policy, HaloStreaming streaming, double device) {
    const std::vector<std::string> remedies =
        tried_remedies({llama2_7b(), with_memory(policy, streaming), one_row(102400), gpu_gib(device)});
    return remedies.empty() ? "" : remedies.front();
  };
  EXPECT_EQ(first(MemoryPolicy::save_all, HaloStreaming::automatic, 76), "memory.policy: auto");
  EXPECT_EQ(first(MemoryPolicy::checkpoint, HaloStreaming::off, 45), "memory.halo_streaming: auto");
  EXPECT_EQ(first(MemoryPolicy::save_all, HaloStreaming::off, 45), "memory.policy and memory.halo_streaming: auto");
}

TEST(Refusal, EvaluationAndFullStepsCountToo) {
  Trial trial{llama2_7b(), {}, one_row(32768), gpu_gib(26)};
  EXPECT_EQ(trial.plan().peak_pass, MemoryPlan::Pass::training);
  trial.config.attention.full_steps = 5;  // whole layers there
  trial.target = gpu_gib(25.5);
  EXPECT_THAT(tried_remedies(trial), testing::Contains("attention.full_steps: 0"));
  trial.config.attention.full_steps = 0;
  trial.config.data.validation = {DataEntry{}};
  trial.config.evaluate.every = 10;
  trial.config.evaluate.perplexity.contexts = {1024, 524288};
  EXPECT_THAT(tried_remedies(trial), testing::ElementsAre("evaluate.every: 0", testing::_));
}

TEST(Refusal, OffloadWithoutHostMemoryIsAboutTheHost) {
  const Trial trial{llama2_7b(), with_memory(MemoryPolicy::checkpoint_offload), one_row(262144), gpu_gib(76, 30)};
  const auto error = thrown_by([&] { trial.plan(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->what_happened, "needs 64.0 GiB of the host for offload, 30.0 GiB may be used");
  EXPECT_EQ(error->where, "memory.host_budget");
  tried_remedies(trial);
}

TEST(Streaming, IsRefusedWithTheReason) {
  const auto error = [](auto&& change, int64_t length = 102400) {
    Trial trial{llama2_7b(), with_memory(MemoryPolicy::automatic, HaloStreaming::on), one_row(length), gpu_gib(1000)};
    change(trial);
    const auto thrown = thrown_by([&] { trial.plan(); });
    return thrown && thrown->kind == ErrorKind::config ? thrown->what() : std::string();
  };
  EXPECT_EQ(error([](Trial&) {}), "");
  EXPECT_THAT(error([](Trial& t) { t.config.attention.kind = AttentionKind::full; }), HasSubstr("attention.kind is full"));
  EXPECT_THAT(error([](Trial& t) { t.config.attention.kind = AttentionKind::s2_wrap; }), HasSubstr("s2_wrap"));
  EXPECT_THAT(error([](Trial& t) { t.config.data.document_mask = true; }), HasSubstr("data.document_mask is true"));
  EXPECT_THAT(error([](Trial& t) { t.config.dist.sequence_parallel = 2; }), HasSubstr("dist.sequence_parallel is 2"));
  EXPECT_THAT(error([](Trial&) {}, 16384), HasSubstr("half a group is 2048 tokens, less than a row tile of 4096"));
  EXPECT_THAT(error([](Trial& t) { t.run.group = 2 * t.run.sequence_length; }), HasSubstr("is one half-group"));
  EXPECT_THAT(error([](Trial&) {}, 16384), HasSubstr("memory.halo_streaming: on"));
}

}  // namespace
}  // namespace longlora
