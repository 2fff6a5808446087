// Gradient norm and AdamW against fp64 references; the decisions about clipping stay on the device.
#include "longlora/kernels/optimizer.h"

#include "kernels/support/matrix.h"
#include "kernels/support/sweep.h"
#include "optimizer/naive.h"

namespace longlora::testing {
namespace {

using kernels::Adamw;
using kernels::norm_blocks;
using kernels::UpdateControl;

std::vector<float> floats(int64_t count, uint64_t seed, double scale = 1) {
  const Values v = Random(seed).normals(count, scale);
  return {v.begin(), v.end()};
}

std::vector<int64_t> counts() {
  std::vector<int64_t> n = {1, 7, 2048, 2049, 5003};
  if (sweep() == Sweep::sample) return n;
  n.insert(n.end(), {2, 8, 63, 16384, 16385, 50021});
  if (sweep() >= Sweep::ci) n.push_back(200003);
  return n;
}

double norm_of(const std::vector<std::vector<float>>& gradients) {
  double squares = 0;
  for (const auto& g : gradients)
    for (const float x : g) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}

TEST(GradientNorm, IsTheRootOfAllSquares) {
  std::vector<std::vector<float>> gradients;
  int64_t num_blocks = 0;
  for (const int64_t n : counts()) {
    gradients.push_back(floats(n, static_cast<uint64_t>(n), 1e-3 * static_cast<double>(gradients.size() + 1)));
    num_blocks += norm_blocks(n);
  }
  for (const bool fast : {true, false}) {
    DeviceArray<double> blocks("blocks", static_cast<size_t>(num_blocks)), norm("norm", 1);
    double* at = blocks.data();
    for (const auto& g : gradients) {
      DeviceArray<float> gradient("gradient", g);
      const auto n = static_cast<int64_t>(g.size());
      expect_ok((fast ? kernels::sum_of_squares : kernels::naive::sum_of_squares)(gradient.data(), n, at, nullptr));
      at += norm_blocks(n);
    }
    expect_ok((fast ? kernels::gradient_norm : kernels::naive::gradient_norm)(blocks.data(), num_blocks, norm.data(), nullptr));
    const double expected = norm_of(gradients);
    EXPECT_NEAR(norm.read()[0], expected, 1e-13 * expected) << (fast ? "fast" : "naive");
  }
}

TEST(GradientNorm, UnalignedGradientsAndLargeOnes) {
  for (const double scale : {1e-25, 1.0, 1e25}) {  // squares that fp32 cannot hold
    const std::vector<float> g = floats(2050, 1, scale);
    DeviceArray<float> gradient("gradient", g);
    DeviceArray<double> blocks("blocks", 1), norm("norm", 1);
    expect_ok(kernels::sum_of_squares(gradient.data() + 1, 2049, blocks.data(), nullptr));
    expect_ok(kernels::gradient_norm(blocks.data(), 1, norm.data(), nullptr));
    const double expected = norm_of({std::vector<float>(g.begin() + 1, g.end())});
    EXPECT_NEAR(norm.read()[0], expected, 1e-13 * expected);
  }
}

TEST(GradientNorm, TheTreeIsThatOfTheDefinition) {
  std::vector<int64_t> counts = {0, 1, 3, 2049};
  if (sweep() > Sweep::small) counts.insert(counts.end(), {2, 2047, 2048, 4097, 10000});
  for (const int64_t n : counts) {
    const Values values = Random(static_cast<uint64_t>(n)).normals(n, 1e3);
    Values nodes(values);
    for (double& x : nodes) x = x * x + 1 / 3.0;
    DeviceArray<double> blocks("blocks", std::max<size_t>(nodes.size(), 1)), norm("norm", 1);
    if (n > 0) blocks.write(nodes);
    expect_ok(kernels::gradient_norm(blocks.data(), n, norm.data(), nullptr));
    while (nodes.size() > 1) {
      Values parents;
      for (size_t i = 0; i < nodes.size(); i += 2) parents.push_back(i + 1 < nodes.size() ? nodes[i] + nodes[i + 1] : nodes[i]);
      nodes = parents;
    }
    EXPECT_EQ(norm.read()[0], nodes.empty() ? 0.0 : std::sqrt(nodes[0])) << n << " blocks";
  }
}

TEST(ClipControl, IsDecidedOnTheDevice) {
  const double infinity = std::numeric_limits<double>::infinity();
  struct {
    double norm, max_norm;
    float clip;
    int32_t finite;
  } const table[] = {{2, 1, 0.5f, 1},     {0.5, 1, 1, 1}, {1, 1, 1, 1}, {7, 0, 1, 1}, {0, 1, 1, 1}, {3, 2, static_cast<float>(2 / 3.0), 1},
                     {infinity, 1, 1, 0}, {NAN, 0, 1, 0}};
  for (const auto& t : table) {
    DeviceArray<double> norm("norm", std::vector<double>{t.norm});
    DeviceArray<UpdateControl> control("control", 1);
    expect_ok(kernels::clip_control(norm.data(), t.max_norm, control.data(), nullptr));
    EXPECT_EQ(control.read()[0].clip, t.clip) << t.norm << " over " << t.max_norm;
    EXPECT_EQ(control.read()[0].finite, t.finite) << t.norm << " over " << t.max_norm;
  }
}

/// Parameters, gradients and moments of one tensor, with an fp64 reference beside them.
struct Training {
  int64_t count, offset;
  DeviceArray<float> master, grad, m, v;
  Matrix copy;
  DeviceArray<UpdateControl> control;
  Values master_given, m_given, v_given;

  Training(int64_t n, int64_t at, ElementType copy_type)
      : count(n),
        offset(at),
        master("master", floats(n + at, 1)),
        grad("grad", floats(n + at, 2)),
        m("m", std::vector<float>(static_cast<size_t>(n + at))),
        v("v", std::vector<float>(static_cast<size_t>(n + at))),
        copy("copy", copy_type, 1, n, n, at),
        control("control", std::vector<UpdateControl>{{0.5f, 1}}),
        m_given(static_cast<size_t>(n)),
        v_given(static_cast<size_t>(n)) {
    for (const float x : master.read()) master_given.push_back(static_cast<double>(x));
    master_given.erase(master_given.begin(), master_given.begin() + at);
  }
  Bytes bytes() { return bytes_of(master) + bytes_of(grad) + bytes_of(m) + bytes_of(v) + copy.bytes(); }
};

/// rate 1e-3, decay 0.1
Adamw step_of(int t) {
  return {.beta1 = 0.9f,
          .beta2 = 0.95f,
          .keep = static_cast<float>(1 - 1e-3 * 0.1),
          .step_size = static_cast<float>(1e-3 / (1 - std::pow(0.9, t))),
          .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(0.95, t))),
          .eps = 1e-8f};
}

using Update = Launch (*)(const Adamw&, int64_t, float*, float*, float*, float*, void*, ElementType, bool, const UpdateControl*,
                          kernels::Stream);

void expect_steps(Update update, const char* name, int64_t n, int64_t offset, ElementType copy_type, int steps) {
  Training t(n, offset, copy_type);
  const auto at = [&](DeviceArray<float>& a) { return a.data() + offset; };
  for (int step = 1; step <= steps; ++step) {
    const std::vector<float> g = floats(n + offset, 100 + static_cast<uint64_t>(step), 0.1);
    t.grad.write(g);
    const Adamw u = step_of(step);
    const bool zero = step % 2 == 0;
    expect_ok(update(u, n, at(t.master), at(t.grad), at(t.m), at(t.v), t.copy.data(), copy_type, zero, t.control.data(), nullptr));
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      const double clipped = static_cast<double>(g[i + static_cast<size_t>(offset)]) * 0.5;
      t.m_given[i] = u.beta1 * t.m_given[i] + (1.0f - u.beta1) * clipped;
      t.v_given[i] = u.beta2 * t.v_given[i] + (1.0f - u.beta2) * clipped * clipped;
      t.master_given[i] = t.master_given[i] * u.keep - u.step_size * t.m_given[i] / (std::sqrt(t.v_given[i]) * u.root_correction + u.eps);
    }
    const std::vector<float> left = t.grad.read();
    for (size_t i = static_cast<size_t>(offset); i < left.size(); ++i) ASSERT_EQ(left[i], zero ? 0.0f : g[i]);
  }
  const std::string text = std::string(name) + " " + std::to_string(n) + " elements";
  const std::vector<float> master = t.master.read(), m = t.m.read(), v = t.v.read();
  const Values copy = t.copy.read();
  const double bound = near(ElementType::fp32, 2 * steps);  // the master is rounded twice a step
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    const size_t k = i + static_cast<size_t>(offset);
    const double size = std::max(1e-2, std::abs(t.master_given[i]));
    ASSERT_NEAR(static_cast<double>(master[k]), t.master_given[i], bound * size) << text << " element " << i;
    ASSERT_NEAR(static_cast<double>(m[k]), t.m_given[i], near(ElementType::fp32, 10) * 0.05) << text;
    ASSERT_NEAR(static_cast<double>(v[k]), t.v_given[i], near(ElementType::fp32, 20) * std::max(t.v_given[i], 1e-6)) << text;
    ASSERT_EQ(copy[i], decode(copy_type, encode(copy_type, static_cast<double>(master[k]))))
        << text << ": the copy is not the rounded master";
  }
}

TEST(Adamw, OneStepOfManySizes) {
  for (const int64_t n : counts())
    for (const int64_t offset : {0, 3})
      for (const ElementType copy : kTypes) {
        expect_steps(&kernels::adamw, "fast", n, offset, copy, 2);
        if (n < 6000) expect_steps(&kernels::naive::adamw, "naive", n, offset, copy, 2);
      }
}

TEST(Adamw, AHundredStepsFollowAnAccurateReference) {
  expect_steps(&kernels::adamw, "fast", 1003, 0, ElementType::bf16, 100);
  expect_steps(&kernels::naive::adamw, "naive", 257, 0, ElementType::bf16, 100);
}

/// Each of 100 steps, from the state the kernel has, by the CPU's formula in fp32: two ulp, because a compiler may fuse its products.
TEST(Adamw, IsWithinTwoUlpOfTheCpuFormula) {
  const int64_t n = 1000;
  Training t(n, 0, ElementType::bf16);
  for (int step = 1; step <= 100; ++step) {
    const std::vector<float> p = t.master.read(), g = floats(n, static_cast<uint64_t>(step), 0.1), m0 = t.m.read(), v0 = t.v.read();
    t.grad.write(g);
    const Adamw u = step_of(step);
    expect_ok(kernels::adamw(u, n, t.master.data(), t.grad.data(), t.m.data(), t.v.data(), nullptr, ElementType::bf16, false,
                             t.control.data(), nullptr));
    const std::vector<float> seen = t.master.read();
    for (size_t i = 0; i < seen.size(); ++i) {
      const float clipped = g[i] * 0.5f;
      const float m = m0[i] * u.beta1 + clipped * (1.0f - u.beta1), v = v0[i] * u.beta2 + clipped * clipped * (1.0f - u.beta2);
      const float expected = p[i] * u.keep - u.step_size * m / (std::sqrt(v) * u.root_correction + u.eps);
      // the ulp of the larger of the two terms: the difference may be small
      const float size = std::max(std::abs(expected), 1e-3f);
      ASSERT_LE(std::abs(seen[i] - expected), 2 * (std::nextafter(size, INFINITY) - size)) << "step " << step << ", element " << i;
    }
  }
}

TEST(Adamw, WritesNothingWhenTheNormIsNotFinite) {
  for (const int64_t n : {5, 4099}) {
    Training t(n, 0, ElementType::bf16);
    t.control.write({{1.0f, 0}});
    const Bytes before = t.bytes();
    expect_ok(kernels::adamw(step_of(1), n, t.master.data(), t.grad.data(), t.m.data(), t.v.data(), t.copy.data(), ElementType::bf16, true,
                             t.control.data(), nullptr));
    EXPECT_EQ(t.bytes(), before);
  }
}

TEST(Adamw, BitsDoNotDependOnOrder) {
  for (const int64_t offset : {0, 1})
    expect_same_bits([&] {
      const int64_t n = 20000;
      Training t(n, offset, ElementType::bf16);
      DeviceArray<double> blocks("blocks", static_cast<size_t>(norm_blocks(n))), norm("norm", 1);
      expect_ok(kernels::sum_of_squares(t.grad.data() + offset, n, blocks.data(), nullptr));
      expect_ok(kernels::gradient_norm(blocks.data(), norm_blocks(n), norm.data(), nullptr));
      expect_ok(kernels::clip_control(norm.data(), 1, t.control.data(), nullptr));
      expect_ok(kernels::adamw(step_of(1), n, t.master.data() + offset, t.grad.data() + offset, t.m.data() + offset, t.v.data() + offset,
                               t.copy.data(), ElementType::bf16, true, t.control.data(), nullptr));
      return t.bytes() + bytes_of(norm);
    });
}

TEST(Optimizer, RefusesWhatItCannotDo) {
  Training t(8, 0, ElementType::bf16);
  DeviceArray<double> norm("norm", 1);
  expect_refused(kernels::sum_of_squares(t.grad.data(), 0, norm.data(), nullptr), "count");
  expect_refused(kernels::sum_of_squares(nullptr, 8, norm.data(), nullptr), "gradient");
  expect_refused(kernels::sum_of_squares(t.grad.data(), 8, nullptr, nullptr), "blocks");
  expect_refused(kernels::gradient_norm(norm.data(), -1, norm.data(), nullptr), "num_blocks");
  expect_refused(kernels::gradient_norm(norm.data(), 1, nullptr, nullptr), "norm");
  expect_refused(kernels::clip_control(norm.data(), -1, t.control.data(), nullptr), "max_norm");
  expect_refused(kernels::clip_control(norm.data(), 1, nullptr, nullptr), "control");
  const auto update = [&](int64_t n, float* master, float* grad, void* copy, const UpdateControl* control) {
    return kernels::adamw(step_of(1), n, master, grad, t.m.data(), t.v.data(), copy, ElementType::bf16, false, control, nullptr);
  };
  expect_refused(update(0, t.master.data(), t.grad.data(), nullptr, t.control.data()), "count");
  expect_refused(update(8, nullptr, t.grad.data(), nullptr, t.control.data()), "master");
  expect_refused(update(8, t.master.data(), nullptr, nullptr, t.control.data()), "grad");
  expect_refused(update(8, t.master.data(), t.grad.data(), t.master.data(), t.control.data()), "copy");
  expect_refused(update(8, t.master.data(), t.grad.data(), static_cast<char*>(t.copy.data()) + 1, t.control.data()), "copy");
  expect_refused(update(8, t.master.data(), t.grad.data(), nullptr, nullptr), "control");
}

#if defined(LONGLORA_EMU)
TEST(Adamw, EveryByteMovesOnce) {
  const int64_t n = 4096, threads = n / 8;
  Training t(n, 0, ElementType::bf16);
  const Traffic update = traffic_of([&] {
    expect_ok(kernels::adamw(step_of(1), n, t.master.data(), t.grad.data(), t.m.data(), t.v.data(), t.copy.data(), ElementType::bf16, true,
                             t.control.data(), nullptr));
  });
  EXPECT_EQ(update.read, 16 * n + 8 * threads);  // the control word of every thread
  EXPECT_EQ(update.written, 12 * n + 2 * n + 4 * n);
  DeviceArray<double> blocks("blocks", 1);
  EXPECT_EQ(traffic_of([&] { expect_ok(kernels::sum_of_squares(t.grad.data(), n, blocks.data(), nullptr)); }).read, 4 * n);
}
#endif

}  // namespace
}  // namespace longlora::testing
