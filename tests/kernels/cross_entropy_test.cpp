// Cross-entropy against its definition in fp64; the gradient lies in place over the logits.
#include "longlora/kernels/cross_entropy.h"

#include "cross_entropy/naive.h"
#include "kernels/support/cases.h"
#include "kernels/support/far.h"

namespace longlora::testing {
namespace {

using kernels::CrossEntropy;

std::vector<RowsCase> cases() {
  std::vector<RowsCase> c = {{1, 1, 0, 0}, {3, 7, 2, 1}, {4, 100, 4, 0}, {2, 4097, 7, 0}};
  if (sweep() == Sweep::sample) return c;
  const std::vector<RowsCase> more = {{5, 2, 0, 0}, {9, 8, 8, 0}, {7, 257, 0, 0}, {2, 4096, 0, 0}, {2, 4104, 8, 8}, {1, 8191, 1, 0}};
  c.insert(c.end(), more.begin(), more.end());
  if (sweep() == Sweep::small) return c;
  c.insert(c.end(), {{1, 32000, 0, 0}, {1, 32001, 0, 3}, {1, 49152, 0, 0}});
  if (sweep() == Sweep::full) c.insert(c.end(), {{3, 128256, 0, 0}, {2, 151936, 0, 0}});
  return c;
}

struct Inputs {
  ElementType type;
  RowsCase c;
  Matrix logits;
  std::vector<int32_t> labels_given;
  DeviceArray<int32_t> labels;
  DeviceArray<float> nll;

  Inputs(ElementType t, const RowsCase& cs)
      : type(t),
        c(cs),
        logits("logits", t, cs.rows, cs.width, cs.width + cs.gap, cs.offset, values(cs)),
        labels("labels", static_cast<size_t>(cs.rows)),
        nll("nll", static_cast<size_t>(cs.rows)) {
    Random random(2);
    for (int64_t n = 0; n < c.rows; ++n)  // one row in three has no target; the last element is a target as well
      labels_given.push_back(n % 3 == 2 ? -100 : static_cast<int32_t>(n == 0 ? c.width - 1 : random.below(c.width)));
    labels.write(labels_given);
  }
  static Values values(const RowsCase& c) {
    Values v = Random(1).normals(c.rows * c.width, 4);
    // in every other row a maximum that comes late and far above the rest; in the others running sums of which every term counts
    for (int64_t n = 1; n < c.rows; n += 2) v[static_cast<size_t>((n + 1) * c.width - 1)] = 60;
    return v;
  }
  CrossEntropy shape() const { return {c.rows, c.width, type}; }
};

struct Loss {
  Values nll, d_logits;
};
Loss oracle(const Inputs& in, double scale) {
  Loss loss = {{}, Values(in.logits.given.size())};
  const auto width = static_cast<size_t>(in.c.width);
  for (size_t row = 0; row < in.labels_given.size(); ++row) {
    if (in.labels_given[row] < 0) {
      loss.nll.push_back(0);
      continue;
    }
    const double* x = in.logits.given.data() + row * width;
    double largest = x[0], sum = 0;
    for (size_t i = 0; i < width; ++i) largest = std::max(largest, x[i]);
    for (size_t i = 0; i < width; ++i) sum += std::exp(x[i] - largest);
    const auto label = static_cast<size_t>(in.labels_given[row]);
    loss.nll.push_back(std::log(sum) + largest - x[label]);
    for (size_t i = 0; i < width; ++i) loss.d_logits[row * width + i] = scale * (std::exp(x[i] - largest) / sum - (i == label ? 1 : 0));
  }
  return loss;
}

Values values_of(DeviceArray<float>& array) {
  const std::vector<float> v = array.read();
  return {v.begin(), v.end()};
}

/// The gradient lies in its own rows of `d_type` over the logits' memory.
Values gradient_of(Inputs& in, ElementType d_type) {
  if (d_type == in.type) return in.logits.read();
  const Bytes bytes = in.logits.bytes();
  Values d;
  const int64_t stride = kernels::in_place_stride(in.type, in.c.width + in.c.gap, d_type);
  for (int64_t n = 0; n < in.c.rows; ++n)
    for (int64_t i = 0; i < in.c.width; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, bytes.data() + in.c.offset * element_bytes(in.type) + (n * stride + i) * 2, 2);
      d.push_back(decode(d_type, bits));
    }
  return d;
}

/// exp(x - maximum): the subtraction of numbers up to 60 and the exponential's own error.
double gradient_bound(ElementType d_type, int64_t width) { return rounded_once(d_type, width) + 64 * rounding_unit(ElementType::fp32); }

TEST(CrossEntropy, LossIsItsDefinition) {
  for (const ElementType type : kTypes)
    for (const RowsCase& c : cases()) {
      Inputs in(type, c);
      const Loss expected = oracle(in, 1);
      const double bound = near(ElementType::fp32, c.width);
      expect_ok(cross_entropy(in.shape(), in.logits.view(), in.labels.data(), in.nll.data(), nullptr));
      expect_close(values_of(in.nll), expected.nll, bound, what("fast", type, c), 16);
      in.nll.poison();
      expect_ok(kernels::naive::cross_entropy(in.shape(), in.logits.view(), in.labels.data(), in.nll.data(), nullptr));
      expect_close(values_of(in.nll), expected.nll, bound, what("naive", type, c), 16);
      EXPECT_EQ(in.logits.read(), in.logits.given) << "logits are only read";
    }
}

using Backward = Launch (*)(const CrossEntropy&, Rows, const int32_t*, float, float*, ElementType, kernels::Stream);

void expect_gradient(Backward backward, const char* name, ElementType type, ElementType d_type, const RowsCase& c) {
  Inputs in(type, c);
  const float scale = 0.25f;
  const Loss expected = oracle(in, static_cast<double>(scale));
  expect_ok(backward(in.shape(), in.logits.view(), in.labels.data(), scale, in.nll.data(), d_type, nullptr));
  expect_close(values_of(in.nll), expected.nll, near(ElementType::fp32, c.width), what(name, type, c), 16);
  const Values d = gradient_of(in, d_type);
  // relative to an even share where an element is smaller than that
  expect_close(d, expected.d_logits, gradient_bound(d_type, c.width), what(name, type, c) + " gradient in " + name_of(d_type),
               static_cast<double>(scale) / static_cast<double>(c.width), underflow(d_type));
  for (size_t i = 0; i < d.size(); ++i) {
    const bool has_target = in.labels_given[i / static_cast<size_t>(c.width)] >= 0;
    ASSERT_TRUE(has_target || d[i] == 0) << "a row without target";
  }
}

TEST(CrossEntropy, GradientOverLogitsOfTheSameType) {
  for (const ElementType type : kTypes)
    for (const RowsCase& c : cases()) {
      expect_gradient(&kernels::cross_entropy_backward, "fast", type, type, c);
      expect_gradient(&kernels::naive::cross_entropy_backward, "naive", type, type, c);
    }
}

TEST(CrossEntropy, NarrowGradientOverFp32Logits) {
  for (const ElementType d_type : {ElementType::bf16, ElementType::fp16})
    for (const RowsCase& c : cases()) {
      expect_gradient(&kernels::cross_entropy_backward, "fast", ElementType::fp32, d_type, c);
      expect_gradient(&kernels::naive::cross_entropy_backward, "naive", ElementType::fp32, d_type, c);
    }
}

TEST(CrossEntropy, NarrowGradientLeavesTheSecondHalfOfARow) {
  const RowsCase c = {2, 5000, 8, 0};
  Inputs in(ElementType::fp32, c);
  const Bytes before = in.logits.bytes();
  expect_ok(cross_entropy_backward(in.shape(), in.logits.view(), in.labels.data(), 1, in.nll.data(), ElementType::bf16, nullptr));
  const Bytes after = in.logits.bytes();
  const auto row = static_cast<size_t>((c.width + c.gap) * 4), written = static_cast<size_t>(c.width * 2);
  for (size_t at = 0; at < after.size(); ++at) ASSERT_TRUE(at % row < written || after[at] == before[at]) << "byte " << at;
}

TEST(CrossEntropy, MaskedLogitsAndUniformRows) {
  const double infinity = std::numeric_limits<double>::infinity();
  Inputs in(ElementType::fp32, {1, 4, 0, 0});
  in.logits.write({-infinity, 1, 1, -infinity});
  in.labels.write({2});
  expect_ok(cross_entropy_backward(in.shape(), in.logits.view(), in.labels.data(), 1, in.nll.data(), ElementType::fp32, nullptr));
  EXPECT_NEAR(static_cast<double>(in.nll.read()[0]), std::log(2), 1e-7);
  EXPECT_EQ(in.logits.read(), (Values{0, 0.5, -0.5, 0}));
  in.logits.write({NAN, 1, 1, 0});
  expect_ok(cross_entropy(in.shape(), in.logits.view(), in.labels.data(), in.nll.data(), nullptr));
  EXPECT_TRUE(std::isnan(in.nll.read()[0])) << "a NaN must be seen in the loss";
}

TEST(CrossEntropy, LossesAreAddedInDouble) {
  for (const int64_t rows : {1, 31, 1024, 5003}) {
    const Values values = Random(3).normals(rows);
    std::vector<float> given(values.begin(), values.end());
    DeviceArray<float> nll("nll", given);
    DeviceArray<double> sum("sum", std::vector<double>{2.5});
    double expected = 2.5;
    for (const float v : given) expected += static_cast<double>(v);
    expect_ok(kernels::add_nll(nll.data(), rows, sum.data(), nullptr));
    EXPECT_NEAR(sum.read()[0], expected, 1e-12 * static_cast<double>(rows));
    sum.write({2.5});
    expect_ok(kernels::naive::add_nll(nll.data(), rows, sum.data(), nullptr));
    EXPECT_EQ(sum.read()[0], expected);
  }
}

TEST(CrossEntropy, BitsDoNotDependOnOrder) {
  for (const RowsCase& c : {RowsCase{4, 4200, 8, 0}, RowsCase{2, 333, 0, 1}})
    expect_same_bits([&] {
      Inputs in(ElementType::fp32, c);
      DeviceArray<double> sum("sum", std::vector<double>{0});
      expect_ok(cross_entropy_backward(in.shape(), in.logits.view(), in.labels.data(), 1, in.nll.data(), ElementType::bf16, nullptr));
      expect_ok(kernels::add_nll(in.nll.data(), c.rows, sum.data(), nullptr));
      return in.logits.bytes() + bytes_of(in.nll) + bytes_of(sum);
    });
}

TEST(CrossEntropy, RefusesWhatItCannotDo) {
  Inputs in(ElementType::bf16, {2, 16, 0, 0});
  const auto run = [&](CrossEntropy p, ConstRows x, const int32_t* labels, float* nll) {
    return cross_entropy(p, x, labels, nll, nullptr);
  };
  const CrossEntropy good = in.shape();
  expect_refused(run({0, 16, good.logits_type}, in.logits.view(), in.labels.data(), in.nll.data()), "rows");
  expect_refused(run({2, 0, good.logits_type}, in.logits.view(), in.labels.data(), in.nll.data()), "vocabulary");
  expect_refused(run(good, {in.logits.data(), 15}, in.labels.data(), in.nll.data()), "logits");
  expect_refused(run(good, in.logits.view(), nullptr, in.nll.data()), "labels");
  expect_refused(run(good, in.logits.view(), in.labels.data(), nullptr), "nll");
  expect_refused(cross_entropy_backward(good, in.logits.view(), in.labels.data(), 1, in.nll.data(), ElementType::fp16, nullptr), "d_type");
  DeviceArray<double> sum("sum", 1);
  expect_refused(kernels::add_nll(in.nll.data(), 0, sum.data(), nullptr), "rows");
  expect_refused(kernels::add_nll(in.nll.data(), 2, nullptr, nullptr), "sum");
}

#if defined(LONGLORA_EMU)
TEST(CrossEntropy, EveryByteMovesOnceEachPass) {
  const RowsCase c = {3, 8192, 0, 0};  // two rows have a target
  Inputs in(ElementType::fp32, c);
  const int64_t row = c.width * 4, threads = 512;
  const Traffic forward =
      traffic_of([&] { expect_ok(cross_entropy(in.shape(), in.logits.view(), in.labels.data(), in.nll.data(), nullptr)); });
  EXPECT_EQ(forward.read, 2 * row + 3 * threads * 4 + 2 * threads * 4);  // labels and target logits: one address for the whole block
  EXPECT_EQ(forward.written, c.rows * 4);
  const Traffic backward = traffic_of([&] {
    expect_ok(cross_entropy_backward(in.shape(), in.logits.view(), in.labels.data(), 1, in.nll.data(), ElementType::bf16, nullptr));
  });
  EXPECT_EQ(backward.read, forward.read + 2 * row);
  EXPECT_EQ(backward.written, c.rows * (row / 2 + 4));
}

TEST(CrossEntropy, RowsLieFurtherApartThan32Bits) {
  Inputs in(ElementType::fp32, {2, 500, 0, 0});
  FarRows logits(ElementType::fp32, 2, 500);
  logits.write(in.logits.given);
  without_bounds([&] {
    expect_ok(cross_entropy_backward(in.shape(), logits.view(), in.labels.data(), 0.25f, in.nll.data(), ElementType::fp32, nullptr));
  });
  expect_close(logits.read(), oracle(in, 0.25).d_logits, gradient_bound(ElementType::fp32, 500), "far rows", 0.25 / 500);
}
#endif

}  // namespace
}  // namespace longlora::testing
