// Token embedding: the gather is a copy, the gradient has the bits of a sequential sum.
#include "longlora/kernels/embedding.h"

#include "embedding/naive.h"
#include "kernels/support/cases.h"
#include "kernels/support/far.h"

namespace longlora::testing {
namespace {

using kernels::sort_tokens;
using kernels::TokenRows;

struct Inputs {
  ElementType type;
  RowsCase c;  // rows: tokens
  int64_t vocabulary = 23;
  std::vector<int32_t> ids_given;

  Inputs(ElementType t, const RowsCase& cs) : type(t), c(cs) {
    Random random(1);
    for (int64_t n = 0; n < c.rows; ++n)  // a quarter are the same token, the last one occurs as well
      ids_given.push_back(n == 0 ? 22 : n % 4 == 0 ? 5 : static_cast<int32_t>(random.below(vocabulary)));
  }
  Matrix matrix(const char* name, uint64_t seed) const {
    return {name, type, c.rows, c.width, c.width + c.gap, c.offset, Random(seed).normals(c.rows * c.width)};
  }
};

/// Token rows on the device.
struct DeviceTokens {
  explicit DeviceTokens(const TokenRows& t)
      : count(static_cast<int64_t>(t.unique_ids.size())),
        unique_ids("unique ids", t.unique_ids),
        offsets("offsets", t.offsets),
        positions("positions", t.positions) {}
  int64_t count;
  DeviceArray<int32_t> unique_ids, offsets, positions;
};

TEST(Embedding, ForwardCopiesRows) {
  for_all_rows_cases([](ElementType type, const RowsCase& c) {
    Inputs in(type, c);
    Matrix weight("weight", type, in.vocabulary, c.width, c.width, c.gap == 0 ? 0 : c.offset, Random(2).normals(in.vocabulary * c.width));
    DeviceArray<int32_t> ids("ids", in.ids_given);
    Values expected;
    for (const int32_t id : in.ids_given)
      expected.insert(expected.end(), weight.given.begin() + id * c.width, weight.given.begin() + (id + 1) * c.width);
    Matrix x("x", type, c.rows, c.width, c.width + c.gap, c.offset), naive("naive", type, c.rows, c.width, c.width + c.gap, c.offset);
    expect_ok(embedding_forward(type, c.rows, c.width, weight.data(), ids.data(), x.view(), nullptr));
    EXPECT_EQ(x.read(), expected) << what("fast", type, c);
    expect_ok(kernels::naive::embedding_forward(type, c.rows, c.width, weight.data(), ids.data(), naive.view(), nullptr));
    EXPECT_EQ(naive.read(), expected) << what("naive", type, c);
  });
}

TEST(Embedding, BackwardHasTheBitsOfASequentialSum) {
  for_all_rows_cases([](ElementType type, const RowsCase& c) {
    Inputs in(type, c);
    Matrix d_x = in.matrix("d_x", 3);
    DeviceTokens tokens(sort_tokens(in.ids_given));
    const Values before = Random(4).normals(in.vocabulary * c.width);
    for (const bool fast : {true, false}) {
      Matrix d_weight("d_weight", ElementType::fp32, in.vocabulary, c.width, c.width, c.offset, before);
      Values expected = d_weight.given;
      for (size_t n = 0; n < in.ids_given.size(); ++n)
        for (int64_t i = 0; i < c.width; ++i) {
          double& sum = expected[static_cast<size_t>(in.ids_given[n] * c.width + i)];
          sum = static_cast<double>(static_cast<float>(sum + d_x.given[n * static_cast<size_t>(c.width) + static_cast<size_t>(i)]));
        }
      expect_ok((fast ? kernels::embedding_backward : kernels::naive::embedding_backward)(
          type, tokens.count, c.width, tokens.unique_ids.data(), tokens.offsets.data(), tokens.positions.data(), d_x.view(),
          static_cast<float*>(d_weight.data()), nullptr));
      EXPECT_EQ(d_weight.read(), expected) << what(fast ? "fast" : "naive", type, c);
    }
  });
}

TEST(Embedding, TokensAreSortedByIdThenPosition) {
  const TokenRows t = sort_tokens(std::vector<int32_t>{7, 3, -100, 7, 0, 3, 7});
  EXPECT_EQ(t.unique_ids, (std::vector<int32_t>{0, 3, 7}));
  EXPECT_EQ(t.offsets, (std::vector<int32_t>{0, 1, 3, 6}));
  EXPECT_EQ(t.positions, (std::vector<int32_t>{4, 1, 5, 0, 3, 6}));
  EXPECT_EQ(sort_tokens({}).offsets, std::vector<int32_t>{0});
}

TEST(Embedding, BitsDoNotDependOnOrder) {
  for (const RowsCase& c : {RowsCase{50, 136, 8, 0}, RowsCase{40, 33, 0, 1}})
    expect_same_bits([&] {
      Inputs in(ElementType::bf16, c);
      Matrix d_x = in.matrix("d_x", 3);
      DeviceTokens tokens(sort_tokens(in.ids_given));
      DeviceArray<float> d_weight("d_weight", std::vector<float>(static_cast<size_t>(in.vocabulary * c.width)));
      expect_ok(embedding_backward(in.type, tokens.count, c.width, tokens.unique_ids.data(), tokens.offsets.data(), tokens.positions.data(),
                                   d_x.view(), d_weight.data(), nullptr));
      return bytes_of(d_weight);
    });
}

TEST(Embedding, RefusesWhatItCannotDo) {
  const ElementType type = ElementType::bf16;
  Inputs in(type, {4, 16, 0, 0});
  Matrix x = in.matrix("x", 1), weight("weight", type, in.vocabulary, 16);
  DeviceArray<int32_t> ids("ids", in.ids_given);
  DeviceArray<float> d_weight("d_weight", static_cast<size_t>(in.vocabulary * 16));
  const auto forward = [&](int64_t rows, int64_t width, const void* w, const int32_t* i, Rows out) {
    return embedding_forward(type, rows, width, w, i, out, nullptr);
  };
  expect_refused(forward(0, 16, weight.data(), ids.data(), x.view()), "rows");
  expect_refused(forward(4, 0, weight.data(), ids.data(), x.view()), "width");
  expect_refused(forward(4, 16, nullptr, ids.data(), x.view()), "weight");
  expect_refused(forward(4, 16, weight.data(), nullptr, x.view()), "ids");
  expect_refused(forward(4, 16, weight.data(), ids.data(), {x.data(), 15}), "x");
  const auto backward = [&](int64_t count, const int32_t* i, ConstRows d_x, float* d) {
    return embedding_backward(type, count, 16, i, ids.data(), ids.data(), d_x, d, nullptr);
  };
  expect_ok(backward(0, nullptr, {nullptr, 0}, nullptr));
  expect_refused(backward(-1, ids.data(), x.view(), d_weight.data()), "num_unique");
  expect_refused(backward(1, nullptr, x.view(), d_weight.data()), "unique_ids");
  expect_refused(backward(1, ids.data(), {x.data(), 8}, d_weight.data()), "d_x");
  expect_refused(backward(1, ids.data(), x.view(), nullptr), "d_weight");
}

#if defined(LONGLORA_EMU)
TEST(Embedding, TouchesOnlyTheRowsOfTheBatch) {
  const RowsCase c = {40, 128, 0, 0};
  Inputs in(ElementType::bf16, c);
  Matrix d_x = in.matrix("d_x", 3);
  DeviceTokens tokens(sort_tokens(in.ids_given));
  DeviceArray<float> d_weight("d_weight", std::vector<float>(static_cast<size_t>(in.vocabulary * c.width)));
  const Traffic t = traffic_of([&] {
    expect_ok(embedding_backward(in.type, tokens.count, c.width, tokens.unique_ids.data(), tokens.offsets.data(), tokens.positions.data(),
                                 d_x.view(), d_weight.data(), nullptr));
  });
  const int64_t threads = c.width / 8;  // of a token: each reads its id and two offsets, and the position of every row
  EXPECT_EQ(t.written, tokens.count * c.width * 4);
  EXPECT_EQ(t.read, tokens.count * (c.width * 4 + threads * 12) + c.rows * (c.width * 2 + threads * 4));
}

TEST(Embedding, RowsLieFurtherApartThan32Bits) {
  FarRows x(ElementType::bf16, 2, 40);
  Matrix weight("weight", ElementType::bf16, 3, 40, 40, 0, Random(2).normals(120));
  DeviceArray<int32_t> ids("ids", std::vector<int32_t>{2, 1});
  without_bounds([&] { expect_ok(embedding_forward(ElementType::bf16, 2, 40, weight.data(), ids.data(), x.view(), nullptr)); });
  Values expected(weight.given.begin() + 80, weight.given.end());
  expected.insert(expected.end(), weight.given.begin() + 40, weight.given.begin() + 80);
  EXPECT_EQ(x.read(), expected);

  DeviceTokens tokens(sort_tokens(std::vector<int32_t>{0, 0}));
  DeviceArray<float> d_weight("d_weight", std::vector<float>(40));
  without_bounds([&] {
    expect_ok(embedding_backward(ElementType::bf16, 1, 40, tokens.unique_ids.data(), tokens.offsets.data(), tokens.positions.data(),
                                 x.view(), d_weight.data(), nullptr));
  });
  const std::vector<float> sum = d_weight.read();
  for (size_t i = 0; i < 40; ++i) EXPECT_EQ(sum[i], static_cast<float>(expected[i] + expected[40 + i]));
}
#endif

}  // namespace
}  // namespace longlora::testing
