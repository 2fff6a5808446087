// Frozen projections shared by ranks (docs/distributed.md): the bits of one rank, a part and two layers of memory, and an end to every
// wait when a rank fails.
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <chrono>

#include "model/gathered_store.h"
#include "model/tiny_model.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"

namespace longlora::test {
namespace {

using enum KeepPolicy;

struct Case {
  std::string name;
  TinyShape shape;
  TrainConfig::Tuning tuning;
  std::vector<LayerPolicy> policies;
  ComputeType compute = ComputeType::fp32;
  int64_t rows = 1, tokens = 21;
};

TrainConfig::Tuning lora_plus(double drop_probability = 0) {
  TrainConfig::Tuning t = lora_tuning(all_targets());
  t.train_norms = t.train_embeddings = true;
  t.lora.drop_probability = drop_probability;
  return t;
}
TrainConfig::Tuning lora_only() {
  TrainConfig::Tuning t = lora_tuning();
  t.train_norms = t.train_embeddings = false;
  return t;
}

std::vector<Case> cases() {
  const TinyShape three{.layers = 3}, four_tied{.heads = 4, .kv_heads = 4, .layers = 4, .tied = true},
      one{.heads = 3, .kv_heads = 1, .layers = 1}, odd{.heads = 3, .kv_heads = 1, .head_dim = 6, .layers = 3, .hidden = 15, .ffn = 22};
  return {
      {"gqa, everything recomputed", three, lora_plus(), {checkpoint, checkpoint, checkpoint}},
      {"gqa, bf16, mixed", three, lora_plus(), {checkpoint, save_attention, save_all}, ComputeType::bf16, 2},
      {"tied, adapters alone, all kept", four_tied, lora_only(), {save_all, save_all, save_all, save_all}},
      {"tied, bf16, attention kept",
       four_tied,
       lora_only(),
       {save_attention, save_attention, save_attention, save_attention},
       ComputeType::bf16},
      {"one layer", one, lora_plus(0.3), {checkpoint}, ComputeType::fp32, 2, 11},
      {"tensors that end inside 256 bytes", odd, lora_plus(), {save_attention, checkpoint, checkpoint}},
      {"merged adapters", three, lora_plus(), {checkpoint, save_all, save_attention}, ComputeType::fp32, 1, 131},
      {"full tuning shares nothing", three, full_tuning(), {checkpoint, checkpoint, checkpoint}},
  };
}

/// Ranks are threads already.
struct OneThread {
  const int before = at::get_num_threads();
  OneThread() { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before); }
};

ModelOptions options_of(const Case& c, dist::Communicator* ranks) {
  return {.compute = c.compute, .tuning = c.tuning, .row_tile = 16, .weight_ranks = ranks};
}

std::unique_ptr<LlamaModel> model_of(const Case& c, dist::Communicator* ranks) {
  auto model = make_model(tiny_config(c.shape), options_of(c, ranks));
  model->set_attention({AttentionKind::s2, AttentionPattern::cross_heads, 8});
  model->set_policies(c.policies);
  return model;
}

struct Outcome {
  std::vector<double> losses;
  std::map<std::string, at::Tensor> tensors;
};

/// Two shards with an evaluation between them: the second finds the layers that the first left. Then tokens one by one.
Outcome run(LlamaModel& model, const Case& c) {
  at::set_num_threads(1);  // of this thread
  const TinyBatch batch(c.rows, c.tokens, c.shape.vocabulary), prompt(1, 6, c.shape.vocabulary);
  Outcome found;
  found.losses.push_back(accumulate_gradients(model, batch.input).nll_sum);
  found.tensors["nll"] = model.negative_log_likelihood(batch.input).clone();
  found.losses.push_back(accumulate_gradients(model, batch.input).nll_sum);
  found.tensors["logits"] = model.logits(prompt.input).clone();
  Decoder decoder(model, 8);
  found.tensors["prompt"] = decoder.append(prompt.ids);
  found.tensors["next"] = decoder.append(std::vector<int32_t>{7});
  found.tensors.merge(gradients_of(model));
  return found;
}

TEST(GatheredWeights, HaveTheBitsOfOneRank) {
  const OneThread one_thread;
  for (const Case& c : cases()) {
    const Outcome whole = run(*model_of(c, nullptr), c);
    for (const int ranks : {1, 2, 3, 4}) {
      run_ranks(ranks, [&](dist::Communicator& group) {
        const auto weights = group.split(0, group.rank());
        const Outcome shared = run(*model_of(c, weights.get()), c);
        EXPECT_EQ(shared.losses, whole.losses) << c.name << ", " << ranks << " ranks";
        ASSERT_EQ(shared.tensors.size(), whole.tensors.size());
        for (const auto& [name, tensor] : whole.tensors)
          EXPECT_TRUE(same_bits(shared.tensors.at(name), tensor)) << c.name << ", " << ranks << " ranks: " << name;
      });
    }
  }
}

TEST(GatheredWeights, StartRandomlyAsOneRankDoes) {
  const OneThread one_thread;
  for (const Case& c : cases()) {
    const auto whole = model_of(c, nullptr);
    whole->initialise_base();
    std::map<std::string, at::Tensor> expected;
    whole->visit([&](Parameter& p) { expected[p.name] = p.weight.clone(); });
    std::map<std::string, int64_t> covered;
    std::mutex mutex;
    run_ranks(3, [&](dist::Communicator& group) {
      const auto model = model_of(c, &group);
      model->initialise_base();
      const std::lock_guard lock(mutex);
      model->visit([&](Parameter& p) {
        at::Tensor part = expected.at(p.name);
        if (p.is_shared) part = part.contiguous().view({-1}).narrow(0, p.first_element, p.weight.numel());
        EXPECT_TRUE(same_bits(p.weight, part)) << c.name << ": " << p.name;
        EXPECT_EQ(p.is_shared, p.role == Role::projection && !p.trainable);
        if (p.is_shared) covered[p.name] += p.weight.numel();
      });
    });
    for (const auto& [name, elements] : covered) EXPECT_EQ(elements, expected.at(name).numel()) << name;
    EXPECT_EQ(covered.empty(), c.tuning.mode == TuningMode::full);
  }
}

// ---- memory

/// Bytes that this thread's tensors hold, by the allocator's word.
struct Meter final : c10::MemoryReportingInfoBase {
  int64_t held = 0;
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override { held += bytes; }
  bool memoryProfilingEnabled() const override { return true; }
};

int64_t bytes_of_model(const Case& c, dist::Communicator* ranks) {
  const auto meter = std::make_shared<Meter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  const LlamaModel model(tiny_config(c.shape), tiny_config(c.shape).rope, 64, 64, options_of(c, ranks));
  return meter->held;
}

TEST(GatheredWeights, TakeOnePartOfEveryLayerAndTwoWholeLayers) {
  Case c = cases()[0];
  for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
    for (const int64_t layers : {1, 2, 7}) {
      c.compute = compute;
      c.shape.layers = layers;
      const int64_t e = compute == ComputeType::bf16 ? 2 : 4, whole = bytes_of_model(c, nullptr);
      const int64_t qkv = (4 + 2 * 2) * 8 * 24, o = 24 * 32, gate_up = 2 * 20 * 24, down = 24 * 20;  // four matrices, of the tiny shape
      const int64_t layer_elements = qkv + o + gate_up + down;
      const int64_t before_padding = (layer_elements * e + 4 * 255) / 256 * 256;  // at most
      for (const int64_t ranks : {2, 4}) {
        run_ranks(static_cast<int>(ranks), [&](dist::Communicator& group) {
          const int64_t shared = bytes_of_model(c, &group) - (whole - layers * layer_elements * e);
          const WeightParts parts(tiny_config(c.shape), e, ranks);
          EXPECT_EQ(shared, layers * parts.part_bytes() + std::min<int64_t>(2, layers) * parts.layer_bytes());
          EXPECT_LE(parts.part_bytes(), before_padding / ranks + 256);
        });
      }
    }
  }
}

// ---- what travels, and when

/// Counts gathers, and fails at one of them.
class Watched final : public ThreadCommunicator {
 public:
  Watched(std::shared_ptr<ThreadWorld> world, int rank, int fail_at = -1) : ThreadCommunicator(std::move(world), rank), fail_at_(fail_at) {}
  void all_gather(dist::ConstBuffer mine, dist::Buffer all, dist::Stream stream) override {
    if (gathers++ == fail_at_) throw std::runtime_error("the link broke");
    ThreadCommunicator::all_gather(mine, all, stream);
  }
  std::atomic<int> gathers = 0;

 private:
  const int fail_at_;
};

TEST(GatheredWeights, TravelOnceForwardAndOnceBackwardButForTheLayersThatStayed) {
  const OneThread one_thread;
  Case c = cases()[0];
  c.shape.layers = 5;
  c.policies.assign(5, checkpoint);
  const auto world = std::make_shared<ThreadWorld>(2);
  run_ranks(2, [&](dist::Communicator& group) {
    Watched weights(world, group.rank());
    const auto model = model_of(c, &weights);
    const TinyBatch batch(c.rows, c.tokens, c.shape.vocabulary);
    accumulate_gradients(*model, batch.input);
    EXPECT_EQ(weights.gathers, 5 + 3);  // backward begins with two layers that forward left
    accumulate_gradients(*model, batch.input);
    EXPECT_EQ(weights.gathers, 5 + 3 + 3 + 3);
    const WeightParts parts(tiny_config(c.shape), 4, 2);
    EXPECT_EQ(weights.traffic().sent, static_cast<uint64_t>(weights.gathers * parts.part_bytes()));
  });
}

/// A store of its own over parts of known bytes.
std::unique_ptr<GatheredStore> store_of(const ModelConfig& config, dist::Communicator& ranks) {
  const WeightParts parts(config, 4, ranks.size());
  const at::TensorOptions fp32 = at::TensorOptions().dtype(at::kFloat);
  std::vector<at::Tensor> own;
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    own.push_back(GatheredStore::make_part(parts, fp32, ranks).fill_(static_cast<double>(layer)));
  return std::make_unique<GatheredStore>(config, parts, own, at::kCPU, ranks);
}

TEST(GatheredStore, PrefetchDoesNotWaitForThePeers) {
  const ModelConfig config = tiny_config({.layers = 3});
  run_ranks(2, [&](dist::Communicator& group) {
    const auto weights = group.split(0, group.rank());
    const auto store = store_of(config, *weights);
    std::byte token{};
    if (group.rank() == 0) {
      store->prefetch(0);  // would wait for the peer, which waits for the next line
      group.send(1, {&token, 1});
    } else {
      group.receive(0, {&token, 1});
      store->prefetch(0);
    }
    const std::vector<int64_t> order = {0, 1, 2, 2, 1, 0, 0, 1, 2};  // forward, backward, an evaluation
    for (size_t i = 0; i < order.size(); ++i) {
      const LayerWeights found = store->acquire(order[i]);
      if (i + 1 < order.size()) store->prefetch(order[i + 1]);
      EXPECT_EQ(found.qkv_EC.max().item<float>(), static_cast<float>(order[i]));
      EXPECT_EQ(found.down_CF.min().item<float>(), static_cast<float>(order[i]));
      store->release(order[i]);
    }
    store->prefetch(-1);
    store->prefetch(3);
  });
}

TEST(GatheredStore, AddsOverRanksOnItsOwnThread) {
  const ModelConfig config = tiny_config({.layers = 1});
  run_ranks(3, [&](dist::Communicator& group) {
    std::vector<int64_t> values = {group.rank(), 10};
    store_of(config, group)->sum(values);
    EXPECT_EQ(values, (std::vector<int64_t>{3, 30}));
  });
}

// ---- failures. Each of these would wait for a minute, or for ever, if somebody were not woken.

void expect_ends_with(const std::string& message, const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    body();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), message.c_str());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

TEST(GatheredStore, ARankThatFailsWithinALayerEndsTheWaitsOfAll) {
  const ModelConfig config = tiny_config({.layers = 4});
  for (const int64_t where : {0, 1, 3}) {
    for (const bool prefetches : {false, true}) {
      expect_ends_with("broken layer", [&] {
        run_ranks(3, [&](dist::Communicator& group) {
          const auto weights = group.split(0, group.rank());
          const auto store = store_of(config, *weights);
          const auto pass = [&] {
            for (int64_t layer = 0; layer < 4; ++layer) {
              store->acquire(layer);
              if (prefetches) store->prefetch(layer + 1);
              if (group.rank() == 1 && layer == where) throw std::runtime_error("broken layer");
              store->release(layer);
            }
            store->acquire(0);
          };
          if (group.rank() == 1) return pass();
          const auto error = thrown_by(pass);
          ASSERT_TRUE(error);
          EXPECT_EQ(error->kind, ErrorKind::peer);
          EXPECT_TRUE(thrown_by([&] { store->acquire((where + 2) % 4); }));  // and stays failed; nobody gathered this one
        });
      });
    }
  }
}

TEST(GatheredStore, MayGoWhileAGatherWaits) {
  const ModelConfig config = tiny_config({.layers = 4});
  run_ranks(2, [&](dist::Communicator& group) {
    const auto weights = group.split(0, group.rank());
    if (group.rank() == 0) store_of(config, *weights)->prefetch(0);  // the peer never comes
  });
}

TEST(GatheredWeights, ABrokenGatherIsThrownByThePass) {
  const OneThread one_thread;
  Case c = cases()[0];
  for (const int fail_at : {0, 2, 4}) {
    const auto world = std::make_shared<ThreadWorld>(2);
    expect_ends_with("the link broke", [&] {
      run_ranks(2, [&](dist::Communicator& group) {
        Watched weights(world, group.rank(), group.rank() == 1 ? fail_at : -1);
        try {
          run(*model_of(c, &weights), c);
        } catch (const Error&) {
          throw;
        } catch (const std::exception&) {
          weights.abort("what a trainer does");
          throw;
        }
      });
    });
  }
}

}  // namespace
}  // namespace longlora::test
