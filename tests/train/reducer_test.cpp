// The sum over ranks against the definition: a scalar tree over shards that knows no ranks, bit for bit.
#include "longlora/train/reducer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "support/error_of.h"
#include "support/thread_ranks.h"
#include "train/block_table.h"

namespace longlora {
namespace {

constexpr int64_t kVocab = 150, kWidth = 240;                        // rows do not end where blocks end
constexpr int64_t kElements[] = {kVocab * kWidth, 3, 20000, 16384};  // the first is the embedding

struct Shards {
  std::vector<std::vector<float>> values;  // [shard][element of all parameters]
  std::vector<double> losses;
};

/// Magnitudes from 1e-20 to 1e20, both signs, both zeros, denormals. Few embedding rows are touched when `sparse`.
Shards make_shards(size_t count, bool sparse, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> exponent(-66, 66);
  int64_t total = 0;
  for (const int64_t n : kElements) total += n;
  Shards shards;
  for (size_t s = 0; s < count; ++s) {
    std::vector<float> values(static_cast<size_t>(total));
    for (float& value : values) {
      const uint32_t kind = random() % 16;
      value = kind == 0 ? -0.0f : kind == 1 ? 0.0f : kind == 2 ? 1e-40f : std::exp2(exponent(random)) * (kind % 2 ? 1.0f : -1.0f);
    }
    if (sparse)
      for (int64_t row = 0; row < kVocab; ++row)
        if (random() % 20 != 0) std::fill_n(values.begin() + row * kWidth, kWidth, 0.0f);
    shards.values.push_back(std::move(values));
    shards.losses.push_back(std::exp2(exponent(random)));
  }
  return shards;
}

template <class T>
T scalar_tree(std::vector<T> level) {
  while (level.size() > 1) {
    std::vector<T> next;
    for (size_t i = 0; i < level.size(); i += 2) next.push_back(i + 1 < level.size() ? level[i] + level[i + 1] : level[i]);
    level = next;
  }
  return level.front();
}

struct Model {
  std::vector<Parameter> parameters;
  std::vector<Parameter*> trainable;
  Model() {
    for (const int64_t n : kElements) {
      Parameter p;
      p.name = "p" + std::to_string(parameters.size());
      const bool embedding = parameters.empty();
      if (embedding) p.role = Role::embedding;
      const std::vector<int64_t> shape = embedding ? std::vector<int64_t>{kVocab, kWidth} : std::vector<int64_t>{n};
      p.trainable = true;
      p.weight = p.master = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
      p.grad = at::zeros_like(p.weight);
      parameters.push_back(std::move(p));
    }
    for (Parameter& p : parameters) trainable.push_back(&p);
  }
  void add(const std::vector<float>& values) {
    size_t at = 0;
    for (Parameter* p : trainable) {
      float* grad = p->grad.mutable_data_ptr<float>();
      for (int64_t i = 0; i < p->grad.numel(); ++i) grad[i] += values[at++];
    }
  }
};

/// +0.0 + value: a shard's gradient is added into zeroed memory, so no -0.0 is ever a leaf.
std::vector<uint32_t> expected_bits(const Shards& shards) {
  std::vector<uint32_t> bits;
  for (size_t e = 0; e < shards.values.front().size(); ++e) {
    std::vector<float> column;
    for (const auto& shard : shards.values) column.push_back(0.0f + shard[e]);
    bits.push_back(std::bit_cast<uint32_t>(scalar_tree(column)));
  }
  return bits;
}

/// Compares the elements that the rank owns (all when state is whole) with `expected`; returns how many there were.
int64_t compare(const Model& model, const std::vector<uint32_t>& expected, const std::string& place) {
  int64_t first = 0, compared = 0, wrong = 0;
  for (const Parameter* p : model.trainable) {
    const float* grad = p->grad.const_data_ptr<float>();
    for (int64_t i = p->owned_begin; i < p->owned_begin + p->master.numel(); ++i, ++compared)
      wrong += std::bit_cast<uint32_t>(grad[i]) != expected[static_cast<size_t>(first + i)];
    first += p->grad.numel();
  }
  EXPECT_EQ(wrong, 0) << place;
  return compared;
}

UpdateGate reduce_on(dist::Communicator& ranks, Model& model, Reducer& reducer, const Shards& shards) {
  const size_t per_rank = shards.values.size() / static_cast<size_t>(ranks.size());
  GradientTree tree(model.trainable);
  tree.begin(reducer.first_shard());
  std::vector<LossSum> losses;
  for (size_t i = 0; i < per_rank; ++i) {
    const size_t shard = static_cast<size_t>(reducer.first_shard()) + i;
    tree.open();
    model.add(shards.values[shard]);
    tree.close();
    losses.push_back({.nll_sum = shards.losses[shard], .targets = 1});
  }
  return reducer.reduce(tree, losses, 1.0);
}

TEST(Reducer, EqualsTheScalarTreeForEveryNumberOfRanks) {
  std::mutex mutex;
  for (size_t count = 1; count <= 64; count += count < 17 ? 1 : 5) {
    const Shards shards = make_shards(count, count % 3 != 0, static_cast<uint32_t>(count));
    const std::vector<uint32_t> expected = expected_bits(shards);
    const double loss = scalar_tree(shards.losses);
    double norm_alone = 0;
    for (int size = 1; size <= static_cast<int>(count); ++size) {
      if (count % static_cast<size_t>(size) != 0) continue;
      const bool shard_state = size % 3 != 0;
      const std::string place = std::to_string(count) + " shards on " + std::to_string(size) + " ranks";
      int64_t compared = 0;
      test::run_ranks(size, [&](dist::Communicator& ranks) {
        at::set_num_threads(1);
        Model model;
        Reducer reducer(ranks, model.trainable, static_cast<int64_t>(count), shard_state);
        const UpdateGate gate = reduce_on(ranks, model, reducer, shards);
        const std::lock_guard lock(mutex);
        compared += compare(model, expected, place);
        EXPECT_EQ(gate.nll_sum, loss) << place;
        if (size == 1) norm_alone = gate.norm;
        EXPECT_EQ(gate.norm, norm_alone) << place;
        EXPECT_EQ(gate.clip, clip_factor(norm_alone, 1.0)) << place;
      });
      EXPECT_EQ(compared, static_cast<int64_t>(expected.size()) * (shard_state || size == 1 ? 1 : size)) << place;
    }
  }
}

/// What all 2^k ranks send together in the sum of a step with dense gradients (docs/distributed.md, "Bytes on the wire"): the gradient
/// ranks - 1 times, 8 bytes for every message of it (the embedding's part and the rest), and the numbers of the step.
int64_t formula_bytes(int size, int64_t shards) {
  const BlockTable table(std::vector<int64_t>(std::begin(kElements), std::end(kElements)));
  int64_t elements = 0, messages = 0, widest = 0;
  for (const int64_t n : kElements) elements += n;
  for (int r = 0; r < size; ++r) {
    widest = std::max(widest, owned_blocks(table.num_blocks(), r, size).size());
    for (const HalvingRound& round : halving_rounds(table.num_blocks(), r, size)) {
      bool embedding = false, rest = false;
      for (const BlockTable::Segment& s : table.segments(round.give)) (s.parameter == 0 ? embedding : rest) = true;
      messages += embedding + rest;
    }
  }
  return 4 * (size - 1) * elements + 8 * messages + size * (size - 1) * 8 * (shards / size + widest);
}

TEST(Reducer, SendsWhatTheFormulaSays) {
  const Shards dense = make_shards(8, false, 5);
  for (const int size : {2, 4, 8}) {
    std::mutex mutex;
    uint64_t sent = 0;
    test::run_ranks(size, [&](dist::Communicator& ranks) {
      at::set_num_threads(1);
      Model model;
      Reducer reducer(ranks, model.trainable, 8, true);
      const dist::Traffic before = ranks.traffic();
      reduce_on(ranks, model, reducer, dense);
      const std::lock_guard lock(mutex);
      sent += ranks.traffic().sent - before.sent;
    });
    EXPECT_EQ(sent, static_cast<uint64_t>(formula_bytes(size, 8))) << size;
  }
}

TEST(Reducer, UntouchedRowsAreNotSent) {
  const Shards sparse = make_shards(2, true, 9);
  Shards dense = sparse;
  for (auto& shard : dense.values) std::fill_n(shard.begin(), kVocab * kWidth, 1.0f);
  uint64_t sent[2] = {0, 0};
  for (const bool rows : {false, true}) {
    test::run_ranks(2, [&](dist::Communicator& ranks) {
      at::set_num_threads(1);
      Model model;
      Reducer reducer(ranks, model.trainable, 2, true);
      reduce_on(ranks, model, reducer, rows ? sparse : dense);
      if (ranks.rank() == 1) sent[rows] = ranks.traffic().sent;  // it gives the lower half, where the embedding is
    });
  }
  EXPECT_LT(sent[1] * 2, sent[0]);
}

TEST(Reducer, AnErrorOnOneRankEndsTheStepOnAll) {
  test::run_ranks(4, [](dist::Communicator& ranks) {
    Model model;
    Reducer reducer(ranks, model.trainable, 4, true);
    std::exception_ptr mine;
    if (ranks.rank() == 2) mine = std::make_exception_ptr(Error(ErrorKind::data, "a bad record", "row 7", "repair it"));
    const auto error = thrown_by([&] { reducer.agree_on_failure(mine, 3); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_EQ(error->what_happened, ranks.rank() == 2 ? "a bad record" : "rank 2 could not compute this step");
    EXPECT_FALSE(reducer.agree_on_failure(nullptr, 3));
    std::exception_ptr memory;
    if (ranks.rank() == 1) memory = std::make_exception_ptr(std::bad_alloc());
    EXPECT_TRUE(reducer.agree_on_failure(memory, 3));
  });
}

TEST(Reducer, NamesTheTensorOfAReplicaThatDiffers) {
  test::run_ranks(2, [](dist::Communicator& ranks) {
    Model model;
    Reducer reducer(ranks, model.trainable, 2, false);
    reducer.check_replicas();
    if (ranks.rank() == 1) model.parameters[2].weight.mutable_data_ptr<float>()[17] = 1e-30f;
    const auto error = thrown_by([&] { reducer.check_replicas(); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->where, "p2, rank 1");
  });
}

}  // namespace
}  // namespace longlora
