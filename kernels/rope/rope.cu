// One thread a vector of the first half and its partner in the second half.
#include "common/vectors.cuh"
#include "longlora/kernels/rope.h"

namespace longlora::kernels {
namespace {

template <class E, bool kAligned>
struct Rotate {
  struct Params {
    const E* from;
    E* to;
    const float* table;
    const int32_t* positions;
    int64_t from_row, from_head, to_row, to_head, half;
    int vectors;  // of half a head
    float sign;   // of the sines
    Deal deal;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    constexpr int kPer = kPer128<E>;
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int item = static_cast<int>(s.item);  // a row of heads is short, and 64-bit division long
    const int64_t head = item / p.vectors, i = item % p.vectors * kPer, count = p.half - i;
    const E* from = p.from + s.row * p.from_row + head * p.from_head + i;
    E* to = p.to + s.row * p.to_row + head * p.to_head + i;
    const float* angle = p.table + int64_t{device::load(p.positions + s.row)} * (2 * p.half) + i;
    float a[kPer], b[kPer], cosines[kPer], sines[kPer], first[kPer], second[kPer];
    load_floats<E, kAligned>(from, count, a);
    load_floats<E, kAligned>(from + p.half, count, b);
    load_floats<float, kAligned>(angle, count, cosines);
    load_floats<float, kAligned>(angle + p.half, count, sines);
    LONGLORA_UNROLL
    for (int k = 0; k < kPer; ++k) {
      const float sine = sines[k] * p.sign;
      first[k] = a[k] * cosines[k] - b[k] * sine;
      second[k] = b[k] * cosines[k] + a[k] * sine;
    }
    store_floats<E, kAligned>(to, count, first);
    store_floats<E, kAligned>(to + p.half, count, second);
  }
};

bool lies_on_16_bytes(const void* p, int64_t row, int64_t head, ElementType type) {
  return on_16_bytes(p) && row * element_bytes(type) % 16 == 0 && head * element_bytes(type) % 16 == 0;
}

}  // namespace

Launch rope_copy(const Rope& p, const void* from, void* to, int64_t to_row_stride, int64_t to_head_stride, const float* table,
                 const int32_t* positions, Stream stream) {
  Arguments a;
  a.size("rows", p.rows).size("num_heads", p.num_heads).size("head_size", p.head_size);
  a.require(p.head_size % 2 == 0, "head_size", "must be even: its halves are rotated");
  a.require(p.head_stride >= p.head_size && to_head_stride >= p.head_size, "head_stride", "is below the head size");
  a.require(p.row_stride >= p.head_size && to_row_stride >= p.head_size, "row_stride", "is below the head size");
  a.vector("x", from, p.type).vector("to", to, p.type).vector("table", table, ElementType::fp32).pointer("positions", positions, 4);
  a.require(from != to || (p.row_stride == to_row_stride && p.head_stride == to_head_stride), "to", "is x with other strides");
  if (!a.ok()) return a.answer;
  const int64_t half = p.head_size / 2;
  return with_type(p.type, [&]<class E>() {
    const bool aligned = half % kPer128<E> == 0 && on_16_bytes(table) && lies_on_16_bytes(from, p.row_stride, p.head_stride, p.type) &&
                         lies_on_16_bytes(to, to_row_stride, to_head_stride, p.type);
    const auto run = [&]<bool kAligned>() {
      using Kernel = Rotate<E, kAligned>;
      const int64_t vectors = (half + kPer128<E> - 1) / kPer128<E>;
      const Deal deal = Deal::of(p.rows, p.num_heads * vectors, Kernel::kThreads);
      const typename Kernel::Params params = {.from = static_cast<const E*>(from),
                                              .to = static_cast<E*>(to),
                                              .table = table,
                                              .positions = positions,
                                              .from_row = p.row_stride,
                                              .from_head = p.head_stride,
                                              .to_row = to_row_stride,
                                              .to_head = to_head_stride,
                                              .half = half,
                                              .vectors = static_cast<int>(vectors),
                                              .sign = p.backward ? -1.0f : 1.0f,
                                              .deal = deal};
      return device::launch<Kernel>(deal.blocks(), 0, params, stream);
    };
    return aligned ? run.template operator()<true>() : run.template operator()<false>();
  });
}

Launch rope(const Rope& p, void* x, const float* table, const int32_t* positions, Stream stream) {
  return rope_copy(p, x, x, p.row_stride, p.head_stride, table, positions, stream);
}

}  // namespace longlora::kernels
