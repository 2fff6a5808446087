// RMS norm against its definition in fp64, the fast kernels and the naive ones by the same table.
#include "longlora/kernels/rms_norm.h"

#include "kernels/support/cases.h"
#include "kernels/support/far.h"
#include "kernels/support/matrix.h"
#include "rms_norm/naive.h"

namespace longlora::testing {
namespace {

using kernels::RmsNorm;

constexpr float kEps = 1e-5f;

using Case = RowsCase;

struct Inputs {
  ElementType type;
  Case c;
  Matrix x, branch, weight, d_y;
  Inputs(ElementType t, const Case& cs)
      : type(t),
        c(cs),
        x(make("x", cs.rows, 2)),
        branch(make("branch", cs.rows, 3)),
        weight(make("weight", 1, 4)),
        d_y(make("d_y", cs.rows, 5)) {}
  RmsNorm shape() const { return {type, c.rows, c.width, kEps}; }
  Matrix make(const char* name, int64_t rows, uint64_t seed) const {
    return {name, type, rows, c.width, c.width + c.gap, c.offset, Random(seed).normals(rows * c.width)};
  }
  Matrix output(const char* name) const { return {name, type, c.rows, c.width, c.width + c.gap + 8, c.offset}; }
};

double rstd_of(const Values& x, size_t row, size_t width) {
  double squares = 0;
  for (size_t i = 0; i < width; ++i) squares += x[row * width + i] * x[row * width + i];
  return 1 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(kEps));
}

Values forward_oracle(const Values& x, const Values& weight, size_t width) {
  Values y(x.size());
  for (size_t at = 0; at < x.size(); ++at) y[at] = weight[at % width] * x[at] * rstd_of(x, at / width, width);
  return y;
}

struct Gradients {
  Values d_x, d_weight;
};
Gradients backward_oracle(const Values& x, const Values& weight, const Values& d_y, size_t width) {
  Gradients g = {Values(x.size()), Values(width)};
  for (size_t row = 0; row < x.size() / width; ++row) {
    const double rstd = rstd_of(x, row, width);
    double dot = 0;
    for (size_t i = 0; i < width; ++i) dot += weight[i] * d_y[row * width + i] * x[row * width + i];
    for (size_t i = 0; i < width; ++i) {
      const size_t at = row * width + i;
      g.d_x[at] = rstd * weight[i] * d_y[at] - rstd * rstd * rstd * x[at] * dot / static_cast<double>(width);
      g.d_weight[i] += d_y[at] * x[at] * rstd;
    }
  }
  return g;
}

TEST(RmsNorm, ForwardIsItsDefinition) {
  for_all_rows_cases([](ElementType type, const Case& c) {
    Inputs in(type, c);
    const Values expected = forward_oracle(in.x.given, in.weight.given, static_cast<size_t>(c.width));
    const double bound = rounded_once(type, c.width);
    Matrix y = in.output("y"), naive = in.output("naive");
    expect_ok(rms_norm_forward(in.shape(), in.x.view(), in.weight.data(), y.view(), nullptr));
    expect_close(y.read(), expected, bound, what("fast", type, c));
    expect_ok(kernels::naive::rms_norm_forward(in.shape(), in.x.view(), in.weight.data(), naive.view(), nullptr));
    expect_close(naive.read(), expected, bound, what("naive", type, c));
    const Values before = y.read();
    expect_ok(rms_norm_forward(in.shape(), in.x.view(), in.weight.data(), in.x.view(), nullptr));
    EXPECT_EQ(in.x.read(), before) << what("in place", type, c);
  });
}

TEST(RmsNorm, ResidualSumIsRoundedThenNormed) {
  for_all_rows_cases([](ElementType type, const Case& c) {
    Inputs in(type, c);
    Values rounded(in.x.given.size());
    for (size_t i = 0; i < rounded.size(); ++i) rounded[i] = decode(type, encode(type, in.x.given[i] + in.branch.given[i]));
    const Values expected = forward_oracle(rounded, in.weight.given, static_cast<size_t>(c.width));
    Matrix sum = in.output("sum"), y = in.output("y"), naive_sum = in.output("naive sum"), naive = in.output("naive");
    expect_ok(rms_norm_residual_forward(in.shape(), in.x.view(), in.branch.view(), in.weight.data(), sum.view(), y.view(), nullptr));
    EXPECT_EQ(sum.read(), rounded) << what("sum", type, c);
    expect_close(y.read(), expected, rounded_once(type, c.width), what("fast", type, c));
    expect_ok(kernels::naive::rms_norm_residual_forward(in.shape(), in.x.view(), in.branch.view(), in.weight.data(), naive_sum.view(),
                                                        naive.view(), nullptr));
    EXPECT_EQ(naive_sum.read(), rounded) << what("naive sum", type, c);
    expect_close(naive.read(), expected, rounded_once(type, c.width), what("naive", type, c));
    const Values before = y.read();
    expect_ok(
        rms_norm_residual_forward(in.shape(), in.x.view(), in.branch.view(), in.weight.data(), in.x.view(), in.branch.view(), nullptr));
    EXPECT_EQ(in.x.read(), rounded) << what("sum over x", type, c);
    EXPECT_EQ(in.branch.read(), before) << what("y over the branch", type, c);
  });
}

using Backward = Launch (*)(const RmsNorm&, ConstRows, const void*, ConstRows, Rows, bool, float*, void*, kernels::Stream);

void expect_gradients(Backward backward, const char* name, ElementType type, const Case& c) {
  Inputs in(type, c);
  const Gradients expected = backward_oracle(in.x.given, in.weight.given, in.d_y.given, static_cast<size_t>(c.width));
  DeviceArray<unsigned char> workspace("workspace", static_cast<size_t>(rms_norm_backward_workspace_bytes(in.shape())));
  const double bound = rounded_once(type, 4 * c.width);

  const Values before = Random(6).normals(c.width);
  Matrix d_weight("d_weight", ElementType::fp32, 1, c.width, c.width, 0, before);
  Matrix d_x = in.output("d_x");
  expect_ok(backward(in.shape(), in.x.view(), in.weight.data(), in.d_y.view(), d_x.view(), false, static_cast<float*>(d_weight.data()),
                     workspace.data(), nullptr));
  // a row of one element has no gradient but what eps leaves: its two terms, as large as rstd, cancel
  const double absolute = c.width < 8 ? near(ElementType::fp32, 16) / std::sqrt(static_cast<double>(kEps)) : 0;
  expect_close(d_x.read(), expected.d_x, bound, what(name, type, c), 0, absolute);
  Values sum = expected.d_weight;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += d_weight.given[i];
  expect_close(d_weight.read(), sum, near(ElementType::fp32, 4 * (c.rows + c.width)), what(name, type, c) + " d_weight", 1.0);

  const Values there = Random(7).normals(c.rows * c.width);
  Matrix added("added", type, c.rows, c.width, c.width + c.gap, c.offset, there);
  expect_ok(backward(in.shape(), in.x.view(), in.weight.data(), in.d_y.view(), added.view(), true, nullptr, nullptr, nullptr));
  Values total = expected.d_x;
  for (size_t i = 0; i < total.size(); ++i) total[i] += added.given[i];
  expect_close(added.read(), total, bound, what(name, type, c) + " added", 0, absolute);

  expect_ok(backward(in.shape(), in.x.view(), in.weight.data(), in.d_y.view(), in.d_y.view(), false, nullptr, nullptr, nullptr));
  EXPECT_EQ(in.d_y.read(), d_x.read()) << what(name, type, c) << " over d_y";
}

TEST(RmsNorm, BackwardIsItsDefinition) {
  for_all_rows_cases([](ElementType type, const Case& c) {
    expect_gradients(&kernels::rms_norm_backward, "fast", type, c);
    expect_gradients(&kernels::naive::rms_norm_backward, "naive", type, c);
  });
}

TEST(RmsNorm, ManyRowsMakeLongerPartialSums) {  // above 16,384 rows a block takes 64
  if (sweep() < Sweep::ci) GTEST_SKIP() << "only in sweep ci and full";
  expect_gradients(&kernels::rms_norm_backward, "fast", ElementType::bf16, {16400, 8, 0, 0});
}

TEST(RmsNorm, BitsDoNotDependOnOrder) {
  for (const Case& c : {Case{37, 136, 8, 0}, Case{35, 33, 0, 1}})
    expect_same_bits([&] {
      Inputs in(ElementType::bf16, c);
      Matrix sum = in.output("sum"), y = in.output("y"), d_x = in.output("d_x");
      Matrix d_weight("d_weight", ElementType::fp32, 1, c.width, c.width, 0, Values(static_cast<size_t>(c.width)));
      DeviceArray<unsigned char> workspace("workspace", static_cast<size_t>(rms_norm_backward_workspace_bytes(in.shape())));
      expect_ok(rms_norm_residual_forward(in.shape(), in.x.view(), in.branch.view(), in.weight.data(), sum.view(), y.view(), nullptr));
      expect_ok(rms_norm_backward(in.shape(), sum.view(), in.weight.data(), in.d_y.view(), d_x.view(), false,
                                  static_cast<float*>(d_weight.data()), workspace.data(), nullptr));
      return y.bytes() + d_x.bytes() + d_weight.bytes();
    });
}

TEST(RmsNorm, ExtremeRowsStayFinite) {
  const int64_t width = 64;
  for (const double size : {0.0, 1e-18, 1e18}) {
    Matrix x("x", ElementType::fp32, 1, width, width, 0, Values(64, size)), y("y", ElementType::fp32, 1, width);
    Matrix weight("weight", ElementType::fp32, 1, width, width, 0, Values(64, 1.0));
    expect_ok(rms_norm_forward({ElementType::fp32, 1, width, kEps}, x.view(), weight.data(), y.view(), nullptr));
    for (const double v : y.read()) EXPECT_NEAR(v, size / std::sqrt(size * size + 1e-5), 1e-6) << "rows of " << size;
  }
}

TEST(RmsNorm, RefusesWhatItCannotDo) {
  Inputs in(ElementType::bf16, {2, 16, 0, 0});
  Matrix y = in.output("y");
  DeviceArray<float> d_weight("d_weight", 16);
  const auto forward = [&](RmsNorm p, ConstRows x, const void* weight, Rows out) { return rms_norm_forward(p, x, weight, out, nullptr); };
  const RmsNorm good = in.shape();
  expect_refused(forward({good.type, 0, 16, kEps}, in.x.view(), in.weight.data(), y.view()), "rows");
  expect_refused(forward({good.type, 2, -1, kEps}, in.x.view(), in.weight.data(), y.view()), "width");
  expect_refused(forward(good, {nullptr, 16}, in.weight.data(), y.view()), "x");
  expect_refused(forward(good, {in.x.data(), 15}, in.weight.data(), y.view()), "x");
  expect_refused(forward(good, {static_cast<char*>(in.x.data()) + 1, 16}, in.weight.data(), y.view()), "x");
  expect_refused(forward(good, in.x.view(), nullptr, y.view()), "weight");
  expect_refused(forward(good, in.x.view(), in.weight.data(), {nullptr, 16}), "y");
  expect_refused(rms_norm_residual_forward(good, in.x.view(), in.branch.view(), in.weight.data(), y.view(), y.view(), nullptr), "y");
  expect_refused(rms_norm_backward(good, in.x.view(), in.weight.data(), in.d_y.view(), in.d_y.view(), true, nullptr, nullptr, nullptr),
                 "d_x");
  expect_refused(rms_norm_backward(good, in.x.view(), in.weight.data(), in.d_y.view(), y.view(), false, d_weight.data(), nullptr, nullptr),
                 "workspace");
}

#if defined(LONGLORA_EMU)
TEST(RmsNorm, EveryByteMovesOnce) {
  const Case c = {4, 2048, 0, 0};
  Inputs in(ElementType::bf16, c);
  Matrix sum = in.output("sum"), y = in.output("y");
  const int64_t matrix = c.rows * c.width * 2, weight = c.width * 2;  // the weight once a row, from the caches
  const Traffic plain = traffic_of([&] { expect_ok(rms_norm_forward(in.shape(), in.x.view(), in.weight.data(), y.view(), nullptr)); });
  EXPECT_EQ(plain.read, matrix + c.rows * weight);
  EXPECT_EQ(plain.written, matrix);
  const Traffic residual = traffic_of([&] {
    expect_ok(rms_norm_residual_forward(in.shape(), in.x.view(), in.branch.view(), in.weight.data(), sum.view(), y.view(), nullptr));
  });
  EXPECT_EQ(residual.read, 2 * matrix + c.rows * weight);
  EXPECT_EQ(residual.written, 2 * matrix);
  const Traffic backward = traffic_of([&] {
    expect_ok(rms_norm_backward(in.shape(), in.x.view(), in.weight.data(), in.d_y.view(), sum.view(), true, nullptr, nullptr, nullptr));
  });
  EXPECT_EQ(backward.read, 3 * matrix + c.rows * weight);
  EXPECT_EQ(backward.written, matrix);
}

TEST(RmsNorm, RowsLieFurtherApartThan32Bits) {
  FarRows x(ElementType::bf16, 2, 64), y(ElementType::bf16, 2, 64);
  Matrix weight("weight", ElementType::bf16, 1, 64, 64, 0, Values(64, 1.0));
  x.write(Random(1).normals(128));
  const RmsNorm p = {ElementType::bf16, 2, 64, kEps};
  without_bounds([&] { expect_ok(rms_norm_forward(p, x.view(), weight.data(), y.view(), nullptr)); });
  expect_close(y.read(), forward_oracle(x.given, weight.given, 64), rounded_once(p.type, 64), "far rows");
}
#endif

}  // namespace
}  // namespace longlora::testing
