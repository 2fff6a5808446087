#include "cast/move.cuh"
#include "common/vectors.cuh"
#include "longlora/kernels/cast.h"

namespace longlora::kernels {
namespace {

constexpr int kStep = 8;  // elements of a thread: 16 bytes of the narrower type

template <class From, class To, bool kAligned>
struct Cast {
  struct Params {
    const From* from;
    To* to;
    int64_t from_stride, to_stride, width;
    float scale;
    Deal deal;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int64_t i = s.item * kStep, count = p.width - i;
    whole_or_part<kAligned, kStep>(count, [&]<bool kWhole>() {
      float x[kStep];
      load_floats<From, kWhole>(p.from + s.row * p.from_stride + i, count, x);
      LONGLORA_UNROLL
      for (int k = 0; k < kStep; ++k) x[k] *= p.scale;
      store_floats<To, kWhole>(p.to + s.row * p.to_stride + i, count, x);
    });
  }
};

Arguments check(ElementType type, int64_t rows, int64_t width, const int64_t* index, ConstRows from, ConstRows to) {
  return Arguments()
      .size("rows", rows)
      .size("width", width)
      .pointer("index", index, 8)
      .matrix("from", from, type, width)
      .matrix("to", to, type, width)
      .require(from.data != to.data, "to", "may not be `from`");
}

}  // namespace

Launch cast(int64_t rows, int64_t width, ElementType from_type, ConstRows from, ElementType to_type, Rows to, float scale, Stream stream) {
  const Arguments a = Arguments()
                          .size("rows", rows)
                          .size("width", width)
                          .matrix("from", from, from_type, width)
                          .matrix("to", to, to_type, width)
                          .require(from.data != to.data || (from_type == to_type && from.stride == to.stride), "to",
                                   "is `from` with another type or stride");
  if (!a.ok()) return a.answer;
  const bool aligned = on_16_bytes(from, from_type) && on_16_bytes(to, to_type);
  return with_type(from_type, [&]<class From>() {
    return with_type(to_type, [&]<class To>() {
      const auto run = [&]<bool kAligned>() {
        using Kernel = Cast<From, To, kAligned>;
        const Deal deal = Deal::of(rows, (width + kStep - 1) / kStep, Kernel::kThreads);
        const typename Kernel::Params params = {
            static_cast<const From*>(from.data), static_cast<To*>(to.data), from.stride, to.stride, width, scale, deal};
        return device::launch<Kernel>(deal.blocks(), 0, params, stream);
      };
      return aligned ? run.template operator()<true>() : run.template operator()<false>();
    });
  });
}

Launch gather_rows(ElementType type, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream stream) {
  const Arguments a = check(type, rows, width, index, from, to);
  return a.ok() ? move_rows<false>(type, rows, width, index, from, to, stream) : a.answer;
}
Launch scatter_rows(ElementType type, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream stream) {
  const Arguments a = check(type, rows, width, index, from, to);
  return a.ok() ? move_rows<true>(type, rows, width, index, from, to, stream) : a.answer;
}

}  // namespace longlora::kernels
