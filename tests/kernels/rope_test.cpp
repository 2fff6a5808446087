// Rotary embedding against its definition in fp64.
#include "longlora/kernels/rope.h"

#include "kernels/support/far.h"
#include "kernels/support/matrix.h"
#include "kernels/support/sweep.h"
#include "rope/naive.h"

namespace longlora::testing {
namespace {

using kernels::Rope;

struct Case {
  int64_t rows, heads, head_size, gap, offset;  // elements behind a row of heads, before the first one
};

std::vector<Case> cases() {
  std::vector<Case> c = {{1, 1, 2, 0, 0}, {3, 2, 64, 0, 0}, {5, 3, 6, 1, 1}, {2, 9, 128, 128, 0}};
  if (sweep() == Sweep::sample) return c;
  const std::vector<Case> more = {{70, 1, 2, 0, 0},  {4, 8, 16, 8, 0}, {7, 5, 96, 3, 0},
                                  {3, 1, 256, 0, 8}, {2, 3, 62, 0, 1}, {33, 3, 64, 0, 0}};
  c.insert(c.end(), more.begin(), more.end());
  if (sweep() == Sweep::small) return c;
  const std::vector<Case> large = {{2, 32, 128, 64, 0}, {3, 64, 128, 0, 0}, {2, 71, 64, 0, 3}, {1, 40, 128, 0, 0}};
  c.insert(c.end(), large.begin(), large.end());
  return c;
}

struct Inputs {
  static constexpr int kPositions = 50;
  ElementType type;
  Case c;
  Matrix x;
  Values table_given;
  DeviceArray<float> table;
  std::vector<int32_t> positions_given;
  DeviceArray<int32_t> positions;

  Inputs(ElementType t, const Case& cs)
      : type(t),
        c(cs),
        x("x", t, cs.rows, cs.heads * cs.head_size, row_stride(), cs.offset, Random(1).normals(cs.rows * cs.heads * cs.head_size)),
        table("table", static_cast<size_t>(kPositions * cs.head_size)),
        positions("positions", static_cast<size_t>(cs.rows)) {
    std::vector<float> values;
    for (int64_t p = 0; p < kPositions; ++p)
      for (int64_t i = 0; i < c.head_size; ++i) {
        const int64_t half = c.head_size / 2;
        const double angle = static_cast<double>(p) * std::pow(100.0, -static_cast<double>(i % half) / static_cast<double>(half));
        values.push_back(static_cast<float>(1.1 * (i < half ? std::cos(angle) : std::sin(angle))));  // 1.1: a yarn factor
      }
    table.write(values);
    table_given.assign(values.begin(), values.end());
    Random random(2);
    for (int64_t n = 0; n < c.rows; ++n) positions_given.push_back(static_cast<int32_t>(random.below(kPositions)));
    positions.write(positions_given);
  }
  int64_t row_stride() const { return c.heads * c.head_size + c.gap; }
  Rope shape(bool backward) const { return {type, c.rows, c.heads, c.head_size, row_stride(), c.head_size, backward}; }
  Values oracle(bool backward) const {
    Values y(x.given.size());
    const auto size = static_cast<size_t>(c.head_size), half = size / 2, heads = static_cast<size_t>(c.heads);
    for (size_t head = 0; head < y.size() / size; ++head)
      for (size_t i = 0; i < half; ++i) {
        const size_t row = head / heads, at = head * size + i, angle = static_cast<size_t>(positions_given[row]) * size + i;
        const double cosine = table_given[angle], sine = backward ? -table_given[angle + half] : table_given[angle + half];
        y[at] = x.given[at] * cosine - x.given[at + half] * sine;
        y[at + half] = x.given[at + half] * cosine + x.given[at] * sine;
      }
    return y;
  }
};

std::string what(const char* name, ElementType type, const Case& c) {
  return std::string(name) + " " + name_of(type) + " [" + std::to_string(c.rows) + ", " + std::to_string(c.heads) + ", " +
         std::to_string(c.head_size) + "] gap " + std::to_string(c.gap) + " offset " + std::to_string(c.offset);
}

TEST(Rope, IsItsDefinitionInPlaceAndApart) {
  for (const ElementType type : kTypes)
    for (const Case& c : cases())
      for (const bool backward : {false, true}) {
        Inputs in(type, c);
        const Values expected = in.oracle(backward);
        const double bound = rounded_once(type, 4);
        const int64_t head = c.head_size + 8, row = c.heads * head;  // apart: heads with gaps between them
        Matrix out("out", type, c.rows * c.heads, c.head_size, head), naive("naive", type, c.rows * c.heads, c.head_size, head);
        expect_ok(rope_copy(in.shape(backward), in.x.data(), out.data(), row, head, in.table.data(), in.positions.data(), nullptr));
        expect_close(out.read(), expected, bound, what("fast", type, c));
        expect_ok(kernels::naive::rope_copy(in.shape(backward), in.x.data(), naive.data(), row, head, in.table.data(), in.positions.data(),
                                            nullptr));
        expect_close(naive.read(), expected, bound, what("naive", type, c));
        EXPECT_EQ(in.x.read(), in.x.given);
        expect_ok(rope(in.shape(backward), in.x.data(), in.table.data(), in.positions.data(), nullptr));
        EXPECT_EQ(in.x.read(), out.read()) << what("in place", type, c);
      }
}

TEST(Rope, BackwardUndoesForwardUpToTheFactor) {
  Inputs in(ElementType::fp32, {4, 3, 64, 0, 0});
  expect_ok(rope(in.shape(false), in.x.data(), in.table.data(), in.positions.data(), nullptr));
  expect_ok(rope(in.shape(true), in.x.data(), in.table.data(), in.positions.data(), nullptr));
  Values expected = in.x.given;
  for (double& v : expected) v *= 1.1 * 1.1;
  expect_close(in.x.read(), expected, near(ElementType::fp32, 8), "there and back");
}

TEST(Rope, BitsDoNotDependOnOrder) {
  for (const Case& c : {Case{9, 5, 64, 8, 0}, Case{7, 3, 6, 1, 1}})
    expect_same_bits([&] {
      Inputs in(ElementType::bf16, c);
      expect_ok(rope(in.shape(false), in.x.data(), in.table.data(), in.positions.data(), nullptr));
      return in.x.bytes();
    });
}

TEST(Rope, RefusesWhatItCannotDo) {
  Inputs in(ElementType::bf16, {2, 2, 16, 0, 0});
  const auto run = [&](Rope p, void* x, const float* table, const int32_t* positions) { return rope(p, x, table, positions, nullptr); };
  const Rope good = in.shape(false);
  const auto changed = [&](auto change) {
    Rope p = good;
    change(p);
    return run(p, in.x.data(), in.table.data(), in.positions.data());
  };
  expect_refused(changed([](Rope& p) { p.rows = 0; }), "rows");
  expect_refused(changed([](Rope& p) { p.num_heads = 0; }), "num_heads");
  expect_refused(changed([](Rope& p) { p.head_size = 15; }), "head_size");
  expect_refused(changed([](Rope& p) { p.head_stride = 15; }), "head_stride");
  expect_refused(changed([](Rope& p) { p.row_stride = 15; }), "row_stride");
  expect_refused(run(good, nullptr, in.table.data(), in.positions.data()), "x");
  expect_refused(run(good, in.x.data(), nullptr, in.positions.data()), "table");
  expect_refused(run(good, in.x.data(), in.table.data(), nullptr), "positions");
  expect_refused(rope_copy(good, in.x.data(), in.x.data(), 64, 16, in.table.data(), in.positions.data(), nullptr), "to");
}

#if defined(LONGLORA_EMU)
TEST(Rope, EveryByteMovesOnce) {
  const Case c = {3, 32, 128, 0, 0};
  Inputs in(ElementType::bf16, c);
  const Traffic t = traffic_of([&] { expect_ok(rope(in.shape(false), in.x.data(), in.table.data(), in.positions.data(), nullptr)); });
  const int64_t bytes = c.rows * c.heads * c.head_size * 2, threads = bytes / 32;
  EXPECT_EQ(t.written, bytes);
  EXPECT_EQ(t.read, bytes + threads * (64 + 4));  // table and position, from the caches: the same for all heads of a row
}

TEST(Rope, RowsLieFurtherApartThan32Bits) {
  Inputs in(ElementType::bf16, {2, 1, 64, 0, 0});
  FarRows x(ElementType::bf16, 2, 64);
  x.write(in.x.given);
  Rope p = in.shape(false);
  p.row_stride = FarRows::kStride;
  without_bounds([&] { expect_ok(rope(p, x.view().data, in.table.data(), in.positions.data(), nullptr)); });
  expect_close(x.read(), in.oracle(false), rounded_once(p.type, 4), "far rows");
}
#endif

}  // namespace
}  // namespace longlora::testing
