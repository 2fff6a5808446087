// One sequence on several ranks of the fake device: the kernels' windows and carries, at edges that are tile edges and at others.
#include <gtest/gtest.h>

#include "device/arena.h"
#include "device/fake_device.h"
#include "longlora/config/sequence_parts.h"
#include "longlora/model/sequence.h"
#include "model/tiny_model.h"
#include "support/thread_ranks.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

std::mutex turn;  // the emulator runs one kernel at a time: a rank computes while it holds this, and gives it away where it waits

/// A transport for device memory over the ranks' threads.
class TakingTurns final : public dist::Communicator {
 public:
  explicit TakingTurns(dist::Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void send(int peer, dist::ConstBuffer out, dist::Stream) override {
    if (out.memory == dist::Memory::device) ++device_messages;
    const fake::Access access;
    inner_.send(peer, out, nullptr);
  }
  void receive(int peer, dist::Buffer in, dist::Stream) override {
    std::vector<std::byte> staged(in.bytes);
    waiting([&] { inner_.receive(peer, {staged.data(), in.bytes, dist::Memory::host}, nullptr); });
    const fake::Access access;
    std::memcpy(in.data, staged.data(), in.bytes);
  }
  void exchange(int peer, dist::ConstBuffer out, dist::Buffer in, dist::Stream) override {
    send(peer, out, nullptr);
    receive(peer, in, nullptr);
  }
  void all_gather(dist::ConstBuffer mine, dist::Buffer all, dist::Stream) override {
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) send(peer, mine, nullptr);
    for (int peer = 0; peer < size(); ++peer) {
      std::byte* place = all.data + static_cast<size_t>(peer) * mine.bytes;
      if (peer != rank()) receive(peer, {place, mine.bytes, all.memory}, nullptr);
      const fake::Access access;
      if (peer == rank()) std::memcpy(place, mine.data, mine.bytes);
    }
  }
  void sum(std::span<int64_t> values) override {
    waiting([&] { inner_.sum(values); });
  }
  void broadcast(dist::Buffer, int, dist::Stream) override { FAIL(); }
  void max(std::span<int64_t>) override { FAIL(); }
  std::vector<dist::Status> barrier(const dist::Status& mine) override { return inner_.barrier(mine); }
  std::unique_ptr<dist::Communicator> split(int, int) override { return nullptr; }
  void abort(std::string_view reason) noexcept override { inner_.abort(reason); }
  void set_place(const char*, int64_t) override {}
  dist::Traffic traffic() const override { return inner_.traffic(); }
  int64_t device_messages = 0;

 private:
  template <class F>
  void waiting(F&& f) {
    turn.unlock();
    try {
      f();
    } catch (...) {
      turn.lock();
      throw;
    }
    turn.lock();
  }
  dist::Communicator& inner_;
};

struct Case {
  std::string name;
  ComputeType compute = ComputeType::bf16;
  int64_t rows = 2, tokens = 61, group = 16;
  int ranks = 2;
};

std::unique_ptr<LlamaModel> model_of(const Case& c, dist::Communicator* group) {
  ModelOptions options{.compute = c.compute, .tuning = lora_tuning(all_targets()), .device = fake::device(), .row_tile = 32};
  options.tuning.train_embeddings = options.tuning.train_norms = true;
  options.tuning.lora.drop_probability = 0.2;
  auto model = make_model(tiny_config({.heads = 3, .kv_heads = 3, .head_dim = 64, .hidden = 48, .ffn = 40}), options);
  model->set_attention({.kind = AttentionKind::s2, .group = c.group});
  model->set_keep_policies({KeepPolicy::checkpoint, KeepPolicy::save_all});
  model->set_sequence_group(group);
  return model;
}

struct Outcome {
  at::Tensor hidden;
  LossSum loss;
  std::map<std::string, at::Tensor> gradients;
};

Outcome run_model(LlamaModel& model, const ModelInput& input, dist::Communicator* group) {
  SavedActivations saved;
  at::Tensor hidden = model.forward(input, saved);
  Outcome result{hidden.cpu().clone(), model.loss_backward(hidden, input.labels_BT, 1.0f), {}};
  model.backward(hidden, input, saved);
  if (group != nullptr) add_over_sequence_ranks(model.trainable(), result.loss, *group);
  EXPECT_TRUE(result.loss.pending.defined());
  settle(result.loss);
  for (const auto& [name, gradient] : gradients_of(model)) result.gradients[name] = gradient.cpu();
  return result;
}

Outcome run_parts(const Case& c, const TinyBatch& batch) {
  Outcome result;
  result.hidden = at::empty({c.rows, c.tokens, 48}, at::TensorOptions().dtype(c.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat));
  run_ranks(c.ranks, [&](dist::Communicator& threads) {
    const std::lock_guard mine(turn);
    TakingTurns group(threads);
    const SequencePart part = sequence_part(c.tokens, c.group, c.ranks, group.rank());
    ModelInput input = batch.input;
    input.ids_BT = batch.input.ids_BT.narrow(1, part.begin, part.tokens()).contiguous();
    input.labels_BT = batch.input.labels_BT.narrow(1, part.begin, part.tokens()).contiguous();
    input.first_position = part.begin;
    input.row_tokens = c.tokens;
    const Outcome own = run_model(*model_of(c, &group), input, &group);
    result.hidden.narrow(1, part.begin, part.tokens()).copy_(own.hidden);
    EXPECT_GT(group.device_messages, 0);
    if (group.rank() == 0) result.loss = own.loss, result.gradients = own.gradients;
  });
  return result;
}

class DeviceSequence : public testing::TestWithParam<Case> {};

TEST_P(DeviceSequence, LossAndGradientsAreThoseOfOneRank) {
  const Case& c = GetParam();
  TinyBatch batch(c.rows, c.tokens, 37);
  for (int64_t row = 0; row < c.rows; ++row) batch.input.global_rows.push_back(static_cast<uint32_t>(40 + row));
  const Outcome want = run_model(*model_of(c, nullptr), batch.input, nullptr), got = run_parts(c, batch);
  const bool bf16 = c.compute == ComputeType::bf16, aligned = c.group % 256 == 0;
  const double bound = device_model_error(bf16 ? DType::bf16 : DType::f32);
  EXPECT_EQ(got.loss.targets, want.loss.targets);
  EXPECT_NEAR(got.loss.nll_sum / want.loss.nll_sum, 1.0, bound);
  for (const auto& [name, gradient] : want.gradients)
    EXPECT_LT(relative_error(doubles(got.gradients.at(name)), doubles(gradient)), bound) << name;
  if (aligned) EXPECT_TRUE(same_bits(got.hidden, want.hidden));
}

INSTANTIATE_TEST_SUITE_P(All, DeviceSequence,
                         testing::Values(Case{"Bf16"}, Case{"Fp32", ComputeType::fp32, 1, 45, 16, 4},
                                         Case{"Bf16FourRanks", ComputeType::bf16, 1, 140, 70, 4},
                                         Case{"Bf16Aligned", ComputeType::bf16, 1, 250, 256, 2}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace longlora::test
