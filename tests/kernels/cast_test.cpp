// Casts and row moves against their definitions: exact, one rounding.
#include "longlora/kernels/cast.h"

#include <algorithm>

#include "cast/naive.h"
#include "kernels/support/cases.h"
#include "kernels/support/far.h"

namespace longlora::testing {
namespace {

TEST(Cast, RoundsOnceForEveryPairOfTypes) {
  for_all_rows_cases([](ElementType from_type, const RowsCase& c) {
    if (c.width > 4096 && sweep() != Sweep::full) return;
    for (const ElementType to_type : kTypes)
      for (const float scale : {1.0f, 0.3f}) {
        Matrix from("from", from_type, c.rows, c.width, c.width + c.gap, c.offset, Random(1).normals(c.rows * c.width, 3));
        Values expected;
        for (const double v : from.given)
          expected.push_back(decode(to_type, encode(to_type, static_cast<double>(static_cast<float>(v) * scale))));
        const std::string text = what(std::string("to ") + name_of(to_type) + " from", from_type, c);
        Matrix to("to", to_type, c.rows, c.width, c.width + 8, 0), naive("naive", to_type, c.rows, c.width, c.width + 8, 0);
        expect_ok(kernels::cast(c.rows, c.width, from_type, from.view(), to_type, to.view(), scale, nullptr));
        EXPECT_EQ(to.read(), expected) << text;
        expect_ok(kernels::naive::cast(c.rows, c.width, from_type, from.view(), to_type, naive.view(), scale, nullptr));
        EXPECT_EQ(naive.read(), expected) << "naive " << text;
        if (from_type != to_type) continue;
        expect_ok(kernels::cast(c.rows, c.width, from_type, from.view(), to_type, from.view(), scale, nullptr));
        EXPECT_EQ(from.read(), expected) << "in place " << text;
      }
  });
}

TEST(Cast, KeepsSpecialNumbers) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Values values = {0.0, -0.0, infinity, -infinity, 1e-40, 65504, 65520, 70000, 3.4e38, 1e-7, 2e-8};
  const auto width = static_cast<int64_t>(values.size());
  Matrix from("from", ElementType::fp32, 1, width, width, 0, values);
  for (const ElementType type : kTypes) {
    Matrix to("to", type, 1, width);
    expect_ok(kernels::cast(1, width, ElementType::fp32, from.view(), type, to.view(), 1, nullptr));
    const Values seen = to.read();
    for (size_t i = 0; i < values.size(); ++i) {
      const double expected = decode(type, encode(type, from.given[i]));
      EXPECT_EQ(seen[i], expected) << name_of(type) << " of " << values[i];
      EXPECT_EQ(std::signbit(seen[i]), std::signbit(expected));
    }
  }
  Matrix nan("nan", ElementType::fp32, 1, 1, 1, 0, {NAN}), to("to", ElementType::bf16, 1, 1);
  expect_ok(kernels::cast(1, 1, ElementType::fp32, nan.view(), ElementType::bf16, to.view(), 1, nullptr));
  EXPECT_TRUE(std::isnan(to.read()[0]));
}

TEST(MoveRows, GathersAndScatters) {
  for_all_rows_cases([](ElementType type, const RowsCase& c) {
    const int64_t there = c.rows + 3;  // rows of the other matrix
    Random random(4);
    std::vector<int64_t> order(static_cast<size_t>(there));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
    order.resize(static_cast<size_t>(c.rows));
    DeviceArray<int64_t> index("index", order);
    const auto width = static_cast<size_t>(c.width);
    const auto moved = [&](const Values& all) {
      Values v;
      for (const int64_t row : order) v.insert(v.end(), all.begin() + row * c.width, all.begin() + (row + 1) * c.width);
      return v;
    };

    Matrix from("from", type, there, c.width, c.width + c.gap, c.offset, Random(5).normals(there * c.width));
    Matrix to("to", type, c.rows, c.width, c.width + 8, c.offset), naive("naive", type, c.rows, c.width, c.width + 8, c.offset);
    expect_ok(gather_rows(type, c.rows, c.width, index.data(), from.view(), to.view(), nullptr));
    EXPECT_EQ(to.read(), moved(from.given)) << what("gather", type, c);
    expect_ok(kernels::naive::gather_rows(type, c.rows, c.width, index.data(), from.view(), naive.view(), nullptr));
    EXPECT_EQ(naive.read(), moved(from.given)) << what("naive gather", type, c);

    for (const bool fast : {true, false}) {
      Matrix back("back", type, there, c.width, c.width + c.gap, c.offset, Values(static_cast<size_t>(there) * width, 7));
      expect_ok((fast ? kernels::scatter_rows : kernels::naive::scatter_rows)(type, c.rows, c.width, index.data(), to.view(), back.view(),
                                                                              nullptr));
      const Values all = back.read();
      EXPECT_EQ(moved(all), to.read()) << what("scatter", type, c);
      EXPECT_EQ(std::count(all.begin(), all.end(), 7.0), 3 * c.width) << "rows without an index stay: " << what("scatter", type, c);
    }
  });
}

TEST(Cast, BitsDoNotDependOnOrder) {
  for (const RowsCase& c : {RowsCase{9, 136, 8, 0}, RowsCase{7, 33, 0, 1}})
    expect_same_bits([&] {
      Matrix from("from", ElementType::fp32, c.rows, c.width, c.width + c.gap, c.offset, Random(1).normals(c.rows * c.width));
      Matrix to("to", ElementType::bf16, c.rows, c.width);
      expect_ok(kernels::cast(c.rows, c.width, ElementType::fp32, from.view(), ElementType::bf16, to.view(), 0.5f, nullptr));
      return to.bytes();
    });
}

TEST(Cast, RefusesWhatItCannotDo) {
  const ElementType bf16 = ElementType::bf16, fp32 = ElementType::fp32;
  Matrix from("from", fp32, 2, 16, 16, 0, Values(32)), to("to", bf16, 2, 16), other("other", fp32, 2, 16);
  DeviceArray<int64_t> index("index", std::vector<int64_t>{1, 0});
  expect_refused(kernels::cast(0, 16, fp32, from.view(), bf16, to.view(), 1, nullptr), "rows");
  expect_refused(kernels::cast(2, 0, fp32, from.view(), bf16, to.view(), 1, nullptr), "width");
  expect_refused(kernels::cast(2, 16, fp32, {nullptr, 16}, bf16, to.view(), 1, nullptr), "from");
  expect_refused(kernels::cast(2, 16, fp32, from.view(), bf16, {to.data(), 8}, 1, nullptr), "to");
  expect_refused(kernels::cast(2, 16, fp32, from.view(), bf16, from.view(), 1, nullptr), "to");
  expect_refused(gather_rows(fp32, 2, 16, nullptr, from.view(), other.view(), nullptr), "index");
  expect_refused(gather_rows(fp32, 2, 16, index.data(), from.view(), from.view(), nullptr), "to");
  expect_refused(scatter_rows(fp32, 2, 16, index.data(), {from.data(), 15}, other.view(), nullptr), "from");
}

#if defined(LONGLORA_EMU)
TEST(Cast, EveryByteMovesOnce) {
  Matrix from("from", ElementType::fp32, 3, 1040, 1056, 0, Random(1).normals(3120)), to("to", ElementType::bf16, 3, 1040);
  Matrix same("same", ElementType::fp32, 2, 1040);
  DeviceArray<int64_t> index("index", std::vector<int64_t>{2, 0});
  const Traffic cast =
      traffic_of([&] { expect_ok(kernels::cast(3, 1040, ElementType::fp32, from.view(), ElementType::bf16, to.view(), 1, nullptr)); });
  EXPECT_EQ(cast.read, 3120 * 4);
  EXPECT_EQ(cast.written, 3120 * 2);
  const Traffic gather =
      traffic_of([&] { expect_ok(gather_rows(ElementType::fp32, 2, 1040, index.data(), from.view(), same.view(), nullptr)); });
  EXPECT_EQ(gather.read, 2080 * 4 + 2080 / 4 * 8);  // the index once a thread, from the caches
  EXPECT_EQ(gather.written, 2080 * 4);
}

TEST(Cast, RowsLieFurtherApartThan32Bits) {
  FarRows from(ElementType::bf16, 3, 40), to(ElementType::bf16, 2, 40);
  from.write(Random(1).normals(120));
  DeviceArray<int64_t> index("index", std::vector<int64_t>{2, 0});
  without_bounds([&] { expect_ok(gather_rows(ElementType::bf16, 2, 40, index.data(), from.view(), to.view(), nullptr)); });
  Values expected(from.given.begin() + 80, from.given.end());
  expected.insert(expected.end(), from.given.begin(), from.given.begin() + 40);
  EXPECT_EQ(to.read(), expected);
  without_bounds([&] { expect_ok(kernels::cast(2, 40, ElementType::bf16, from.view(), ElementType::bf16, to.view(), 1, nullptr)); });
  EXPECT_EQ(to.read(), Values(from.given.begin(), from.given.begin() + 80));
}
#endif

}  // namespace
}  // namespace longlora::testing
