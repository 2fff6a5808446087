#include "longlora/optim/optimizer.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {
namespace {

TEST(Schedule, CornersHold) {
  for (const ScheduleKind kind : {ScheduleKind::constant_with_warmup, ScheduleKind::linear, ScheduleKind::cosine})
    for (const int64_t warmup : {0, 1, 20})
      for (const double floor : {0.0, 0.1})
        for (const int64_t total : {21, 22, 300}) {
          const TrainConfig::Schedule s{kind, warmup, floor};
          const double peak = 2e-5;
          const auto rate = [&](int64_t step) { return learning_rate_at(s, peak, step, total); };
          const bool decays = kind != ScheduleKind::constant_with_warmup;
          EXPECT_GT(rate(0), 0.0);
          EXPECT_EQ(rate(warmup), peak);
          const double end = decays && total - 1 > warmup ? floor * peak : peak;
          EXPECT_DOUBLE_EQ(rate(total - 1), end);
          if (decays) EXPECT_DOUBLE_EQ(rate(total + 99), floor * peak);
          for (int64_t step = 1; step < total; ++step) {
            if (step <= warmup)
              EXPECT_GE(rate(step), rate(step - 1));
            else
              EXPECT_LE(rate(step), rate(step - 1));
          }
        }
}

TEST(Schedule, KnownPoints) {
  EXPECT_DOUBLE_EQ(learning_rate_at({ScheduleKind::linear, 0, 0.0}, 1.0, 5, 11), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at({ScheduleKind::cosine, 0, 0.2}, 1.0, 5, 11), 0.6);
  EXPECT_DOUBLE_EQ(learning_rate_at({ScheduleKind::constant_with_warmup, 3, 0.0}, 1.0, 0, 10), 0.25);
}

Parameter make_parameter(int64_t elements, uint32_t seed, Role role = Role::lora, at::ScalarType compute = at::kFloat) {
  Parameter p{.name = "p", .role = role, .trainable = true};
  p.master = random_tensor({elements}, seed);
  p.weight = compute == at::kFloat ? p.master : p.master.to(compute);
  p.grad = random_tensor({elements}, seed + 1);
  return p;
}

TEST(GradientNorm, IsTheEuclideanNormWhateverTheThreads) {
  Parameter a = make_parameter(16384 * 3 + 5, 1), b = make_parameter(1, 2), c = make_parameter(40000, 3);
  double expected = 0;
  for (const Parameter* p : {&a, &b, &c})
    for (double g : doubles(p->grad)) expected += g * g;
  const int threads = at::get_num_threads();
  double first = 0;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const double norm = gradient_norm({&a, &b, &c});
    if (n == 1) first = norm;
    EXPECT_EQ(norm, first);
    EXPECT_NEAR(norm / std::sqrt(expected), 1.0, 1e-13);
  }
  at::set_num_threads(threads);
  EXPECT_EQ(gradient_norm({}), 0.0);
  c.grad[39999] = NAN;
  EXPECT_TRUE(std::isnan(gradient_norm({&a, &c})));
}

TEST(Clip, ScalesOnlyAboveTheLimit) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(4.0, 1.0), 0.25);
  EXPECT_EQ(clip_factor(4.0, 0.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
}

/// Loshchilov & Hutter's algorithm 2 in fp64.
struct Oracle {
  std::vector<double> p, m, v;
  explicit Oracle(const Parameter& parameter) : p(doubles(parameter.master)), m(p.size()), v(p.size()) {}
  void step(const std::vector<double>& g, int t, double rate, double decay, const TrainConfig::Optimizer& o, double clip) {
    for (size_t i = 0; i < p.size(); ++i) {
      const double gradient = g[i] * clip;
      p[i] -= rate * decay * p[i];
      m[i] = o.betas[0] * m[i] + (1 - o.betas[0]) * gradient;
      v[i] = o.betas[1] * v[i] + (1 - o.betas[1]) * gradient * gradient;
      p[i] -= rate * (m[i] / (1 - std::pow(o.betas[0], t))) / (std::sqrt(v[i] / (1 - std::pow(o.betas[1], t))) + o.eps);
    }
  }
};

TEST(AdamW, FollowsTheAlgorithmOverAHundredSteps) {
  TrainConfig::Optimizer options;
  options.learning_rate = 1e-2;
  options.weight_decay = 0.1;
  options.embedding_learning_rate = 3e-2;
  options.norm_learning_rate = 5e-3;
  struct Row {
    Role role;
    double rate, decay;
  };
  for (const Row& row : {Row{Role::lora, 1e-2, 0.1}, Row{Role::embedding, 3e-2, 0.1}, Row{Role::head, 3e-2, 0.1},
                         Row{Role::norm, 5e-3, 0.0}, Row{Role::projection, 1e-2, 0.1}}) {
    Parameter p = make_parameter(1003, 4, row.role);
    Oracle oracle(p);
    AdamW optimizer({&p}, options);
    for (int t = 1; t <= 100; ++t) {
      p.grad.copy_(random_tensor({1003}, 100 + static_cast<uint32_t>(t)));
      oracle.step(doubles(p.grad), t, 0.5 * row.rate, row.decay, options, 0.75);
      optimizer.step(t, 0.5, 0.75);
    }
    EXPECT_LT(relative_error(doubles(p.master), oracle.p), near(DType::f32, 400));
    EXPECT_LT(relative_error(doubles(p.adam_v), oracle.v), near(DType::f32, 400));
  }
}

TEST(AdamW, RefreshesTheComputeCopyByRounding) {
  Parameter p = make_parameter(77, 6, Role::lora, at::kBFloat16);
  AdamW optimizer({&p}, {});
  optimizer.step(1, 1.0, 1.0);
  EXPECT_TRUE(same_bits(p.weight, p.master.to(at::kBFloat16)));
}

TEST(AdamW, KeepsMomentsThatExist) {
  Parameter p = make_parameter(10, 7);
  p.adam_m = random_tensor({10}, 8);
  const at::Tensor m = p.adam_m.clone();
  const AdamW optimizer({&p}, {});
  EXPECT_TRUE(same_bits(p.adam_m, m));
  EXPECT_EQ(p.adam_v.abs().sum().item<float>(), 0.0f);
}

}  // namespace
}  // namespace longlora::test
