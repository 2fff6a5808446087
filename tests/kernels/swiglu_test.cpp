// SwiGLU against its definition in fp64.
#include "longlora/kernels/swiglu.h"

#include "kernels/support/cases.h"
#include "kernels/support/far.h"
#include "swiglu/naive.h"

namespace longlora::testing {
namespace {

using kernels::Swiglu;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// gate and up of one element from a [rows, 2 width] matrix
struct Pair {
  double gate, up;
};
Pair pair_of(const Values& gate_up, size_t row, size_t i, size_t width) {
  return {gate_up[row * 2 * width + i], gate_up[row * 2 * width + width + i]};
}

Values forward_oracle(const Values& gate_up, size_t rows, size_t width) {
  Values m;
  for (size_t at = 0; at < rows * width; ++at) {
    const Pair p = pair_of(gate_up, at / width, at % width, width);
    m.push_back(p.gate * sigmoid(p.gate) * p.up);
  }
  return m;
}
Values backward_oracle(const Values& gate_up, const Values& d_m, size_t rows, size_t width) {
  Values d(gate_up.size());
  for (size_t at = 0; at < rows * width; ++at) {
    const size_t row = at / width, i = at % width;
    const auto [gate, up] = pair_of(gate_up, row, i, width);
    const double s = sigmoid(gate);
    d[row * 2 * width + i] = d_m[at] * up * (s + gate * s * (1 - s));
    d[row * 2 * width + width + i] = d_m[at] * gate * s;
  }
  return d;
}

Matrix gate_up_of(ElementType type, const RowsCase& c) {
  return {"gate_up", type, c.rows, 2 * c.width, 2 * c.width + c.gap, c.offset, Random(1).normals(2 * c.rows * c.width, 3)};
}

constexpr int64_t kOperations = 16;  // roundings of fp32 on the way: the exponential, the division, the products

TEST(Swiglu, ForwardIsItsDefinition) {
  for_all_rows_cases([](ElementType type, const RowsCase& c) {
    Matrix gate_up = gate_up_of(type, c);
    const Values expected = forward_oracle(gate_up.given, static_cast<size_t>(c.rows), static_cast<size_t>(c.width));
    const double bound = rounded_once(type, kOperations);
    const Swiglu p = {type, c.rows, c.width};
    Matrix m("m", type, c.rows, c.width, c.width + c.gap, c.offset), naive("naive", type, c.rows, c.width, c.width + c.gap, c.offset);
    expect_ok(swiglu_forward(p, gate_up.view(), m.view(), nullptr));
    expect_close(m.read(), expected, bound, what("fast", type, c), 1e-3, underflow(type));
    expect_ok(kernels::naive::swiglu_forward(p, gate_up.view(), naive.view(), nullptr));
    expect_close(naive.read(), expected, bound, what("naive", type, c), 1e-3, underflow(type));

    expect_ok(swiglu_forward(p, gate_up.view(), gate_up.view(), nullptr));
    const Values in_place = gate_up.read(), apart = m.read();
    for (size_t at = 0; at < apart.size(); ++at) {
      const Pair now =
          pair_of(in_place, at / static_cast<size_t>(c.width), at % static_cast<size_t>(c.width), static_cast<size_t>(c.width));
      ASSERT_EQ(now.gate, apart[at]) << what("in place", type, c);
    }
  });
}

using Backward = Launch (*)(const Swiglu&, Rows, ConstRows, kernels::Stream);

TEST(Swiglu, BackwardIsItsDefinitionInPlace) {
  for_all_rows_cases([](ElementType type, const RowsCase& c) {
    for (const Backward backward : {Backward{&kernels::swiglu_backward}, Backward{&kernels::naive::swiglu_backward}}) {
      Matrix gate_up = gate_up_of(type, c);
      Matrix d_m("d_m", type, c.rows, c.width, c.width + c.gap, c.offset, Random(2).normals(c.rows * c.width));
      const Values expected = backward_oracle(gate_up.given, d_m.given, static_cast<size_t>(c.rows), static_cast<size_t>(c.width));
      expect_ok(backward({type, c.rows, c.width}, gate_up.view(), d_m.view(), nullptr));
      const bool fast = backward == &kernels::swiglu_backward;
      // relative to the whole where the derivative passes through zero, at gate -1.278
      expect_close(gate_up.read(), expected, rounded_once(type, kOperations), what(fast ? "fast" : "naive", type, c), 0, underflow(type));
      EXPECT_EQ(d_m.read(), d_m.given);
    }
  });
}

TEST(Swiglu, SaturatesWithoutNaN) {
  const Values gates = {-200, -90, -88, -50, 50, 88, 90, 200, 0, -0.0};
  const auto width = static_cast<int64_t>(gates.size());
  Values both = gates;
  both.resize(2 * gates.size(), 2.0);
  Matrix gate_up("gate_up", ElementType::fp32, 1, 2 * width, 2 * width, 0, both), m("m", ElementType::fp32, 1, width);
  Matrix d_m("d_m", ElementType::fp32, 1, width, width, 0, Values(gates.size(), 1.0));
  expect_ok(swiglu_forward({ElementType::fp32, 1, width}, gate_up.view(), m.view(), nullptr));
  expect_close(m.read(), forward_oracle(both, 1, gates.size()), near(ElementType::fp32, kOperations), "forward", 1e-30);
  expect_ok(swiglu_backward({ElementType::fp32, 1, width}, gate_up.view(), d_m.view(), nullptr));
  expect_close(gate_up.read(), backward_oracle(both, d_m.given, 1, gates.size()), near(ElementType::fp32, kOperations), "backward", 1.0);
}

TEST(Swiglu, BitsDoNotDependOnOrder) {
  for (const RowsCase& c : {RowsCase{7, 136, 8, 0}, RowsCase{9, 33, 1, 1}})
    expect_same_bits([&] {
      Matrix gate_up = gate_up_of(ElementType::bf16, c), m("m", ElementType::bf16, c.rows, c.width);
      Matrix d_m("d_m", ElementType::bf16, c.rows, c.width, c.width, 0, Random(2).normals(c.rows * c.width));
      expect_ok(swiglu_forward({ElementType::bf16, c.rows, c.width}, gate_up.view(), m.view(), nullptr));
      expect_ok(swiglu_backward({ElementType::bf16, c.rows, c.width}, gate_up.view(), d_m.view(), nullptr));
      return m.bytes() + gate_up.bytes();
    });
}

TEST(Swiglu, RefusesWhatItCannotDo) {
  Matrix gate_up = gate_up_of(ElementType::bf16, {2, 16, 0, 0}), m("m", ElementType::bf16, 2, 16);
  const Swiglu p = {ElementType::bf16, 2, 16};
  expect_refused(swiglu_forward({p.type, 0, 16}, gate_up.view(), m.view(), nullptr), "rows");
  expect_refused(swiglu_forward({p.type, 2, 0}, gate_up.view(), m.view(), nullptr), "width");
  expect_refused(swiglu_forward(p, {gate_up.data(), 31}, m.view(), nullptr), "gate_up");
  expect_refused(swiglu_forward(p, gate_up.view(), {m.data(), 15}, nullptr), "m");
  expect_refused(swiglu_forward(p, gate_up.view(), {gate_up.data(), 16}, nullptr), "m");
  expect_refused(swiglu_backward(p, {nullptr, 32}, m.view(), nullptr), "gate_up");
  expect_refused(swiglu_backward(p, gate_up.view(), {nullptr, 32}, nullptr), "d_m");
}

#if defined(LONGLORA_EMU)
TEST(Swiglu, EveryByteMovesOnce) {
  const RowsCase c = {3, 1040, 16, 0};
  Matrix gate_up = gate_up_of(ElementType::bf16, c), m("m", ElementType::bf16, c.rows, c.width);
  const int64_t bytes = c.rows * c.width * 2;
  const Swiglu p = {ElementType::bf16, c.rows, c.width};
  const Traffic forward = traffic_of([&] { expect_ok(swiglu_forward(p, gate_up.view(), m.view(), nullptr)); });
  EXPECT_EQ(forward.read, 2 * bytes);
  EXPECT_EQ(forward.written, bytes);
  const Traffic backward = traffic_of([&] { expect_ok(swiglu_backward(p, gate_up.view(), m.view(), nullptr)); });
  EXPECT_EQ(backward.read, 3 * bytes);
  EXPECT_EQ(backward.written, 2 * bytes);
}

TEST(Swiglu, RowsLieFurtherApartThan32Bits) {
  FarRows gate_up(ElementType::bf16, 2, 64), m(ElementType::bf16, 2, 32);
  gate_up.write(Random(1).normals(128));
  without_bounds([&] { expect_ok(swiglu_forward({ElementType::bf16, 2, 32}, gate_up.view(), m.view(), nullptr)); });
  expect_close(m.read(), forward_oracle(gate_up.given, 2, 32), rounded_once(ElementType::bf16, kOperations), "far rows");
}
#endif

}  // namespace
}  // namespace longlora::testing
