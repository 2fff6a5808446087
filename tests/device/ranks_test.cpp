// Whole steps on several ranks of the fake device: the bits of one, with the kernels' norm, clip factor and state lanes.
#include <gtest/gtest.h>

#include <set>

#include "device/taking_turns.h"
#include "longlora/checkpoint/train_state.h"
#include "longlora/train/trainer.h"
#include "train/tiny_training.h"

namespace longlora {
namespace {

struct DeviceRank : TinyTraining {
  DeviceRank(dist::Communicator& ranks, bool shard_state) {
    prepare("lora", ComputeType::fp32, ranks, 4, false);
    ModelOptions options{.compute = ComputeType::bf16, .tuning = loaded.config.tuning, .device = fake::device()};
    model = std::make_unique<LlamaModel>(model_config, plan.rope.after, plan.rope.new_max_position, 32, options);
    model->initialise_base();
    model->initialise_lora();
    reducer = std::make_unique<Reducer>(ranks, model->trainable(), 4, shard_state);
    optimizer = std::make_unique<AdamW>(model->trainable(), loaded.config.optimizer);
  }
};

std::string chain_after_two_steps(int size, bool shard_state) {
  std::set<std::string> chains;
  test::run_device_ranks(size, [&](test::TakingTurns& ranks) {
    DeviceRank rank(ranks, shard_state);
    Trainer trainer = rank.trainer();
    trainer.step();
    chains.insert(trainer.step().hash);
    rank.reducer->check_replicas();
    if (size > 1) EXPECT_GT(ranks.device_messages, 0);
  });
  EXPECT_EQ(chains.size(), 1u) << size;
  return *chains.begin();
}

TEST(DeviceRanks, HaveTheBitsOfOne) {
  const std::string alone = chain_after_two_steps(1, false);
  for (const int size : {2, 4})
    for (const bool shard_state : {false, true}) EXPECT_EQ(chain_after_two_steps(size, shard_state), alone) << size << shard_state;
}

}  // namespace
}  // namespace longlora
