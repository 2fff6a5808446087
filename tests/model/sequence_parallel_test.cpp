// One sequence on several ranks (docs/distributed.md): losses, gradients and hidden states are those of one rank, and the halo is all
// that travels.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "longlora/config/run_plan.h"
#include "longlora/model/sequence.h"
#include "longlora/plan/halo.h"
#include "model/tiny_model.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

struct Case {
  std::string name;
  TinyShape shape;
  TrainConfig::Tuning tuning;
  int64_t rows = 1, tokens = 64, group = 16;
  AttentionPattern pattern = AttentionPattern::cross_heads;
  KeepPolicy policy = KeepPolicy::checkpoint;
  ComputeType compute = ComputeType::fp32;
  AttentionSettings attention() const { return {AttentionKind::s2, pattern, group}; }
};

TrainConfig::Tuning lora_plus(double drop_probability = 0) {
  TrainConfig::Tuning t = lora_tuning(all_targets());
  t.train_norms = t.train_embeddings = true;
  t.lora.drop_probability = drop_probability;
  return t;
}

/// Ranks are threads already; a pool under each of them would only fight for the cores.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }

 private:
  int before_;
};

TinyBatch batch_of(const Case& c) {
  TinyBatch batch(c.rows, c.tokens, c.shape.vocabulary);
  batch.input.step = 3;
  for (int64_t row = 0; row < c.rows; ++row) batch.input.global_rows.push_back(static_cast<uint32_t>(40 + row));
  return batch;
}

ModelInput part_of(const ModelInput& whole, const SequencePart& part) {
  ModelInput cut = whole;
  cut.ids_BT = whole.ids_BT.narrow(1, part.begin, part.tokens()).contiguous();
  cut.labels_BT = whole.labels_BT.narrow(1, part.begin, part.tokens()).contiguous();
  cut.first_position = part.begin;
  cut.row_tokens = whole.ids_BT.size(1);
  return cut;
}

std::unique_ptr<LlamaModel> model_of(const Case& c, dist::Communicator* group = nullptr, int64_t row_tile = 16) {
  auto model = make_model(tiny_config(c.shape), {.compute = c.compute, .tuning = c.tuning, .row_tile = row_tile});
  model->set_attention(c.attention());
  model->set_policies(std::vector<LayerPolicy>(static_cast<size_t>(c.shape.layers), c.policy));
  model->set_sequence_group(group);
  return model;
}

struct Outcome {
  LossSum loss;
  std::map<std::string, at::Tensor> gradients;
};

/// Body for every rank: its model, its part of the input, the group.
void run_parts(const Case& c, int ranks,
               const std::function<void(LlamaModel&, const ModelInput&, const SequencePart&, dist::Communicator&)>& body,
               int64_t row_tile = 16) {
  const TinyBatch batch = batch_of(c);
  run_ranks(ranks, [&](dist::Communicator& group) {
    const SequencePart part = sequence_part(c.tokens, c.group, ranks, group.rank());
    const auto model = model_of(c, &group, row_tile);
    body(*model, part_of(batch.input, part), part, group);
  });
}

std::vector<Outcome> outcomes(const Case& c, int ranks) {
  std::vector<Outcome> found(static_cast<size_t>(ranks));
  run_parts(c, ranks, [&](LlamaModel& model, const ModelInput& input, const SequencePart&, dist::Communicator& group) {
    LossSum loss = accumulate_gradients(model, input);
    add_over_sequence_ranks(model.trainable(), loss, group);
    found[static_cast<size_t>(group.rank())] = {loss, gradients_of(model)};
  });
  return found;
}

Outcome on_one_rank(const Case& c) {
  const auto model = model_of(c);
  const TinyBatch batch = batch_of(c);
  const LossSum loss = accumulate_gradients(*model, batch.input);
  EXPECT_EQ(loss.targets, batch.targets);
  return {loss, gradients_of(*model)};
}

double difference(const at::Tensor& got, const at::Tensor& want) {
  const double norm = want.to(at::kDouble).norm().item<double>();
  return (got.to(at::kDouble) - want.to(at::kDouble)).norm().item<double>() / std::max(norm, 1e-30);
}

std::vector<Case> cases() {
  const TinyShape mha{.heads = 4, .kv_heads = 4}, gqa4{.heads = 4, .kv_heads = 1}, gqa3{.heads = 9, .kv_heads = 3, .hidden = 16},
      deep{.heads = 4, .kv_heads = 2, .layers = 3};
  return {
      {"mha", mha, lora_plus()},
      {"mha, odd length, two rows", mha, full_tuning(), 2, 61, 10, AttentionPattern::cross_heads, KeepPolicy::save_all},
      {"gqa 4:1, both halves share a KV head", gqa4, lora_plus(), 2, 67, 12, AttentionPattern::cross_heads, KeepPolicy::save_attention},
      {"gqa 3:1, 4 plain and 5 shifted", gqa3, lora_plus(), 1, 75, 14},
      {"cross layers", deep, lora_plus(), 1, 64, 12, AttentionPattern::cross_layers},
      {"cross layers, all kept", deep, lora_plus(), 2, 41, 10, AttentionPattern::cross_layers, KeepPolicy::save_all},
      {"plain only", deep, lora_plus(), 1, 50, 10, AttentionPattern::plain_only},
      {"shifted only", deep, full_tuning(), 1, 50, 10, AttentionPattern::shifted_only, KeepPolicy::save_attention},
      {"dropout", mha, lora_plus(0.3), 2, 45, 8},
      {"long rows, merged adapters", {.layers = 1}, lora_plus(), 1, 301, 64, AttentionPattern::cross_heads, KeepPolicy::save_all},
  };
}

TEST(SequenceParallel, LossAndGradientsAreThoseOfOneRank) {
  const OneThread one_thread;
  for (const Case& c : cases()) {
    const Outcome want = on_one_rank(c);
    for (const int ranks : {1, 2, 4, 8}) {
      const std::vector<Outcome> got = outcomes(c, ranks);
      for (const Outcome& rank : got) {
        EXPECT_EQ(rank.loss.targets, want.loss.targets) << c.name;
        EXPECT_EQ(rank.loss.nll_sum, got[0].loss.nll_sum) << c.name;
        for (const auto& [name, gradient] : rank.gradients) EXPECT_TRUE(same_bits(gradient, got[0].gradients.at(name))) << c.name << name;
      }
      EXPECT_NEAR(got[0].loss.nll_sum / want.loss.nll_sum, 1.0, sequence_parallel_error()) << c.name << " on " << ranks;
      for (const auto& [name, gradient] : want.gradients)
        EXPECT_LT(difference(got[0].gradients.at(name), gradient), sequence_parallel_error()) << c.name << " on " << ranks << ": " << name;
    }
  }
}

TEST(SequenceParallel, AsManyRanksAsHalfGroups) {  // every rank holds one half-group, the last one a single token
  const OneThread one_thread;
  Case c{"one half-group each", {.heads = 3, .kv_heads = 3}, lora_plus(), 2, 29, 8};
  const Outcome want = on_one_rank(c), got = outcomes(c, 8)[0];
  for (const auto& [name, gradient] : want.gradients)
    EXPECT_LT(difference(got.gradients.at(name), gradient), sequence_parallel_error()) << name;
}

TEST(SequenceParallel, TheSameCallGivesTheSameBits) {
  const OneThread one_thread;
  const Case c = cases()[2];
  const Outcome first = outcomes(c, 4)[0], second = outcomes(c, 4)[0];
  EXPECT_EQ(first.loss.nll_sum, second.loss.nll_sum);
  for (const auto& [name, gradient] : first.gradients) EXPECT_TRUE(same_bits(gradient, second.gradients.at(name))) << name;
}

TEST(SequenceParallel, PoliciesMayDifferBetweenRanksAndChangeNoBit) {
  const OneThread one_thread;
  Case c = cases()[3];
  const Outcome want = outcomes(c, 4)[0];
  const KeepPolicy policies[] = {KeepPolicy::save_all, KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all};
  std::map<std::string, at::Tensor> got;
  run_parts(c, 4, [&](LlamaModel& model, const ModelInput& input, const SequencePart&, dist::Communicator& group) {
    model.set_policies(std::vector<LayerPolicy>(2, policies[group.rank()]));
    LossSum loss = accumulate_gradients(model, input);
    add_over_sequence_ranks(model.trainable(), loss, group);
    if (group.rank() == 0) got = gradients_of(model);
  });
  for (const auto& [name, gradient] : want.gradients) EXPECT_TRUE(same_bits(gradient, got.at(name))) << name;
}

/// Hidden states of all ranks side by side.
at::Tensor hidden_of_parts(const Case& c, int ranks, int64_t row_tile) {
  at::Tensor hidden =
      at::empty({c.rows, c.tokens, c.shape.hidden}, at::TensorOptions().dtype(c.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat));
  run_parts(
      c, ranks,
      [&](LlamaModel& model, const ModelInput& input, const SequencePart& part, dist::Communicator&) {
        hidden.narrow(1, part.begin, part.tokens()).copy_(model.forward(input));
      },
      row_tile);
  return hidden;
}

TEST(SequenceParallel, ForwardIsBitForBitWhereHalfGroupsAreWholeTiles) {
  const OneThread one_thread;
  for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
    for (const int64_t tokens : {256, 243}) {  // 8 half-groups, the last one whole and ragged
      Case c{"aligned", {.heads = 3, .kv_heads = 1}, lora_plus(0.2), 2, tokens, 64};
      c.compute = compute;
      const TinyBatch batch = batch_of(c);
      const at::Tensor want = model_of(c)->forward(batch.input);
      for (const int ranks : {2, 4, 8}) EXPECT_TRUE(same_bits(hidden_of_parts(c, ranks, 16), want)) << tokens << " on " << ranks;
    }
  }
}

TEST(SequenceParallel, EvaluationOfPartsIsThatOfRows) {
  const OneThread one_thread;
  const Case c = cases()[2];
  const at::Tensor want = model_of(c)->negative_log_likelihood(batch_of(c).input);
  at::Tensor got = at::empty_like(want);
  run_parts(c, 4, [&](LlamaModel& model, const ModelInput& input, const SequencePart& part, dist::Communicator&) {
    got.narrow(1, part.begin, part.tokens()).copy_(model.negative_log_likelihood(input));
  });
  EXPECT_LT(difference(got, want), sequence_parallel_error());
}

/// What neighbours say to each other in one layer: keys and values, and with `element_bytes` 4 their gradients.
uint64_t message_bytes(const Case& c, HaloHeads heads, int64_t layer, int64_t element_bytes) {
  const int64_t num_plain = num_plain_heads(c.pattern, c.shape.heads, layer);
  const HeadRange kv = halo_kv_heads(heads, c.shape.heads, c.shape.kv_heads, num_plain);
  return static_cast<uint64_t>(halo_bytes(c.rows, c.group / 2, kv, c.shape.head_dim, element_bytes));
}

TEST(SequenceParallel, TheHaloIsAllThatTravels) {
  const OneThread one_thread;
  std::vector<Case> list = cases();
  list[0].compute = ComputeType::bf16;
  for (const Case& c : list) {
    const int64_t element = c.compute == ComputeType::bf16 ? 2 : 4;
    for (const int ranks : {2, 4, 8}) {
      run_parts(c, ranks, [&](LlamaModel& model, const ModelInput& input, const SequencePart& part, dist::Communicator& group) {
        uint64_t to_right = 0, from_left = 0, gradients_out = 0, gradients_in = 0;
        for (int64_t layer = 0; layer < c.shape.layers; ++layer) {
          to_right += message_bytes(c, part.next, layer, element);
          from_left += message_bytes(c, part.halo, layer, element);
          gradients_out += message_bytes(c, part.halo, layer, 4);
          gradients_in += message_bytes(c, part.next, layer, 4);
        }
        at::Tensor hidden = model.forward(input);
        EXPECT_EQ(group.traffic().sent, to_right) << c.name;
        EXPECT_EQ(group.traffic().received, from_left) << c.name;
        // gathering K and V: every rank's part but the own one, once a layer
        const auto gathered =
            static_cast<uint64_t>(c.shape.layers * c.rows * (c.tokens - part.tokens()) * 2 * c.shape.kv_heads * c.shape.head_dim * element);
        if (ranks == 4) EXPECT_LE(3 * from_left, gathered) << c.name;
        model.loss_backward(hidden, input.labels_BT, 1.0f);
        model.backward(hidden, input);
        EXPECT_EQ(group.traffic().sent, 2 * to_right + gradients_out) << c.name;
        EXPECT_EQ(group.traffic().received, 2 * from_left + gradients_in) << c.name;
      });
    }
  }
}

TEST(SequenceParallel, TheFormulaOfTheDocumentIsThatOfLlama7B) {  // 98,304 tokens, g = T / 4, bf16: 101 MB a layer and rank
  for (const int64_t parts : {4, 8}) {
    const SequencePart part = sequence_part(98304, 24576, parts, parts / 2);
    const HeadRange kv = halo_kv_heads(part.halo, 32, 32, 16);
    EXPECT_EQ(halo_bytes(1, 12288, kv, 128, 2), 100663296);
  }
}

TEST(SequenceParallel, OneSharedKvHeadIsSentOnce) {
  const HeadRange plain = halo_kv_heads(HaloHeads::plain, 9, 3, 4), shifted = halo_kv_heads(HaloHeads::shifted, 9, 3, 4);
  EXPECT_EQ(plain.begin, 0);
  EXPECT_EQ(plain.end, 2);
  EXPECT_EQ(shifted.begin, 1);
  EXPECT_EQ(shifted.end, 3);
  const HeadRange none = halo_kv_heads(HaloHeads::shifted, 9, 3, 9), nobody = halo_kv_heads(HaloHeads::plain, 9, 3, 0);
  EXPECT_EQ(none.begin, none.end);
  EXPECT_EQ(nobody.begin, nobody.end);
  EXPECT_EQ(halo_kv_heads(HaloHeads::none, 9, 3, 4).end, 0);
}

TEST(SequenceParallel, ARankWithoutTargetsTakesPart) {
  const OneThread one_thread;
  const Case c = cases()[0];
  double loss_of[2] = {0, 0};
  for (const int ranks : {1, 2}) {
    TinyBatch batch = batch_of(c);
    std::fill(batch.labels.begin() + 30, batch.labels.end(), kIgnoredLabel);  // the second half is padding
    batch.input.labels_BT = int_tensor(batch.labels, 1);
    run_ranks(ranks, [&](dist::Communicator& group) {
      const auto model = model_of(c, &group);
      const ModelInput input = part_of(batch.input, sequence_part(c.tokens, c.group, ranks, group.rank()));
      LossSum loss = accumulate_gradients(*model, input);
      add_over_sequence_ranks(model->trainable(), loss, group);
      if (group.rank() == 0) loss_of[ranks - 1] = loss.nll_sum;
    });
  }
  EXPECT_NEAR(loss_of[1] / loss_of[0], 1.0, sequence_parallel_error());
}

TEST(SequenceParallel, SumsAreAscendingAndEqualOnAllRanks) {
  const OneThread one_thread;
  run_ranks(4, [&](dist::Communicator& group) {
    Parameter p{.name = "p", .trainable = true}, tiny{.name = "tiny", .trainable = true};
    const float mine[] = {16777216.0f, 1.0f, 1.0f, 1.0f};                                        // ascending: 2^24 swallows each 1
    p.grad = at::full({5000, 1000}, mine[group.rank()], at::TensorOptions().dtype(at::kFloat));  // more than one chunk
    tiny.grad = at::full({3}, static_cast<double>(group.rank() + 1), p.grad.options());
    LossSum loss{.nll_sum = 0.5 + group.rank(), .targets = 10 + group.rank()};
    const std::vector<Parameter*> trainable = {&p, &tiny};
    add_over_sequence_ranks(trainable, loss, group);
    EXPECT_TRUE(same_bits(p.grad, at::full({5000, 1000}, 16777216.0, p.grad.options())));
    EXPECT_TRUE(same_bits(tiny.grad, at::full({3}, 10.0, p.grad.options())));
    EXPECT_EQ(loss.nll_sum, 8.0);
    EXPECT_EQ(loss.targets, 46);
  });
}

TEST(SequenceParallel, WhatItCannotDoIsRefused) {
  const Case c = cases()[0];
  run_ranks(2, [&](dist::Communicator& group) {
    const auto model = model_of(c, &group);
    ModelInput input = part_of(batch_of(c).input, sequence_part(c.tokens, c.group, 2, group.rank()));
    model->set_attention({.kind = AttentionKind::full});
    EXPECT_EQ(kind_of([&] { model->forward(input); }), ErrorKind::config);
    model->set_attention(c.attention());
    input.document_starts = {{0}};
    EXPECT_EQ(kind_of([&] { model->forward(input); }), ErrorKind::config);
    input.document_starts.clear();
    input.first_position += 1;
    EXPECT_EQ(kind_of([&] { model->forward(input); }), ErrorKind::internal);
  });
}

}  // namespace
}  // namespace longlora::test
