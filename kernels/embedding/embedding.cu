// Forward is a copy of rows; backward gives a token's columns to one thread, which walks the token's positions in order.
#include <algorithm>

#include "cast/move.cuh"
#include "common/vectors.cuh"
#include "longlora/kernels/embedding.h"

namespace longlora::kernels {
namespace {

template <class E, bool kAligned>
struct AddTokenRows {
  struct Params {
    const int32_t *unique_ids, *offsets, *positions;
    const E* d_x;
    float* d_weight;
    int64_t d_x_stride, width;
    Deal deal;
  };
  static constexpr int kThreads = 64;  // small: frequent tokens are long walks, and so spread over more of the machine
  static constexpr int kMinBlocks = 8;
  static constexpr int kPer = kPer128<E>, kAhead = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int64_t i = s.item * kPer, count = p.width - i;
    const int begin = device::load(p.offsets + s.row), end = device::load(p.offsets + s.row + 1);
    float* d_weight = p.d_weight + int64_t{device::load(p.unique_ids + s.row)} * p.width + i;
    float sum[kPer];
    load_floats<float, kAligned>(d_weight, count, sum);
    int at = begin;
    for (; at + kAhead <= end; at += kAhead) {  // loads that do not wait for each other, sums that do
      Bits128 ahead[kAhead];
      LONGLORA_UNROLL
      for (int k = 0; k < kAhead; ++k) ahead[k] = load_row(p, at + k, i);
      LONGLORA_UNROLL
      for (int k = 0; k < kAhead; ++k) add(ahead[k], sum);
    }
    for (; at < end; ++at) add(load_row(p, at, i), sum);
    store_floats<float, kAligned>(d_weight, count, sum);
  }

 private:
  LONGLORA_DEVICE static Bits128 load_row(const Params& p, int at, int64_t i) {
    return load_vector<E, kAligned>(p.d_x + int64_t{device::load(p.positions + at)} * p.d_x_stride + i, p.width - i);
  }
  LONGLORA_DEVICE static void add(const Bits128& bits, float (&sum)[kPer]) {
    float x[kPer];
    device::unpack<E>(bits, x);
    LONGLORA_UNROLL
    for (int k = 0; k < kPer; ++k) sum[k] += x[k];
  }
};

}  // namespace

Launch embedding_forward(ElementType type, int64_t rows, int64_t width, const void* weight, const int32_t* ids, Rows x, Stream stream) {
  const Arguments a =
      Arguments().size("rows", rows).size("width", width).vector("weight", weight, type).pointer("ids", ids, 4).matrix("x", x, type, width);
  return a.ok() ? move_rows<false>(type, rows, width, ids, {weight, width}, x, stream) : a.answer;
}

TokenRows sort_tokens(std::span<const int32_t> ids) {
  TokenRows sorted;
  for (size_t n = 0; n < ids.size(); ++n)
    if (ids[n] >= 0) sorted.positions.push_back(static_cast<int32_t>(n));
  std::stable_sort(sorted.positions.begin(), sorted.positions.end(),
                   [&](int32_t a, int32_t b) { return ids[static_cast<size_t>(a)] < ids[static_cast<size_t>(b)]; });
  for (size_t at = 0; at < sorted.positions.size(); ++at) {
    const int32_t id = ids[static_cast<size_t>(sorted.positions[at])];
    if (!sorted.unique_ids.empty() && sorted.unique_ids.back() == id) continue;
    sorted.unique_ids.push_back(id);
    sorted.offsets.push_back(static_cast<int32_t>(at));
  }
  sorted.offsets.push_back(static_cast<int32_t>(sorted.positions.size()));
  return sorted;
}

Launch embedding_backward(ElementType type, int64_t num_unique, int64_t width, const int32_t* unique_ids, const int32_t* offsets,
                          const int32_t* positions, ConstRows d_x, float* d_weight, Stream stream) {
  if (num_unique == 0) return {};
  const Arguments a = Arguments()
                          .size("num_unique", num_unique)
                          .size("width", width)
                          .pointer("unique_ids", unique_ids, 4)
                          .pointer("offsets", offsets, 4)
                          .pointer("positions", positions, 4)
                          .matrix("d_x", d_x, type, width)
                          .pointer("d_weight", d_weight, 4);
  if (!a.ok()) return a.answer;
  return with_type(type, [&]<class E>() {
    const auto run = [&]<bool kAligned>() {
      using Kernel = AddTokenRows<E, kAligned>;
      const Deal deal = Deal::of(num_unique, (width + kPer128<E> - 1) / kPer128<E>, Kernel::kThreads);
      const typename Kernel::Params params = {unique_ids, offsets,    positions, static_cast<const E*>(d_x.data),
                                              d_weight,   d_x.stride, width,     deal};
      return device::launch<Kernel>(deal.blocks(), 0, params, stream);
    };
    const bool aligned = width % kPer128<E> == 0 && on_16_bytes(d_weight) && on_16_bytes(d_x, type);
    return aligned ? run.template operator()<true>() : run.template operator()<false>();
  });
}

}  // namespace longlora::kernels
