// Forward, with and without the residual addition: one block a row, the row in registers between its sum of squares and its output.
#include "common/vectors.cuh"
#include "longlora/kernels/rms_norm.h"
#include "rms_norm/row.cuh"

namespace longlora::kernels {
namespace {

template <class E, int kRowThreads, int kVectors, bool kAligned, bool kResidual>
struct RmsNormForward {
  struct Params {
    const E *x, *branch, *weight;
    E *sum, *y;
    int64_t x_stride, branch_stride, sum_stride, y_stride, width;
    float eps;
  };
  static constexpr int kThreads = kRowThreads;
  static constexpr int kMinBlocks = 1024 / kThreads;

  /// The vector of the row that is normed; with the residual the rounded sum, which it also writes.
  LONGLORA_DEVICE static Bits128 row_vector(const Params& p, int64_t row, int64_t i) {
    const int64_t count = p.width - i;
    Bits128 bits = load_vector<E, kAligned>(p.x + row * p.x_stride + i, count);
    if constexpr (kResidual) {
      float a[kPer128<E>], b[kPer128<E>];
      device::unpack<E>(bits, a);
      device::unpack<E>(load_vector<E, kAligned>(p.branch + row * p.branch_stride + i, count), b);
      LONGLORA_UNROLL
      for (int k = 0; k < kPer128<E>; ++k) a[k] += b[k];
      bits = device::pack<E>(a);
      store_vector<E, kAligned>(p.sum + row * p.sum_stride + i, count, bits);
    }
    return bits;
  }

  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t row = device::block_index();
    Bits128 kept[kVectors > 0 ? kVectors : 1], weight[kVectors > 0 ? kVectors : 1];
    float squares = 0;
    for_vectors<E, kThreads, kVectors>(p.width, [&](int v, int64_t i) {
      const Bits128 bits = row_vector(p, row, i);
      if constexpr (kVectors > 0) {
        kept[v] = bits;
        weight[v] = load_vector<E, kAligned>(p.weight + i, p.width - i);
      }
      add_squares<E>(bits, squares);
    });
    const float rstd = reciprocal_rms(block_sum<kThreads>(squares, device::shared_memory<float>()), p.width, p.eps);
    for_vectors<E, kThreads, kVectors>(p.width, [&](int v, int64_t i) {
      const int64_t count = p.width - i;
      if constexpr (kVectors == 0) {
        kept[0] = load_vector<E, kAligned>(kResidual ? p.sum + row * p.sum_stride + i : p.x + row * p.x_stride + i, count);
        weight[0] = load_vector<E, kAligned>(p.weight + i, count);
      }
      float x[kPer128<E>], w[kPer128<E>];
      device::unpack<E>(kept[v], x);
      device::unpack<E>(weight[v], w);
      LONGLORA_UNROLL
      for (int k = 0; k < kPer128<E>; ++k) x[k] = w[k] * (x[k] * rstd);
      store_vector<E, kAligned>(p.y + row * p.y_stride + i, count, device::pack<E>(x));
    });
  }
};

struct Operands {
  ConstRows x, branch;
  const void* weight;
  Rows sum, y;
};

template <bool kResidual>
Launch forward(const RmsNorm& p, const Operands& o, Stream stream) {
  bool aligned = on_16_bytes(o.x, p.type) && on_16_bytes(o.weight) && on_16_bytes(o.y, p.type);
  if (kResidual) aligned = aligned && on_16_bytes(o.branch, p.type) && on_16_bytes(o.sum, p.type);
  return with_type(p.type, [&]<class E>() {
    return with_row_shape<E>(aligned, p.width, [&]<int kRowThreads, int kVectors, bool kAligned>() {
      using Kernel = RmsNormForward<E, kRowThreads, kVectors, kAligned, kResidual>;
      const typename Kernel::Params params = {.x = static_cast<const E*>(o.x.data),
                                              .branch = static_cast<const E*>(o.branch.data),
                                              .weight = static_cast<const E*>(o.weight),
                                              .sum = static_cast<E*>(o.sum.data),
                                              .y = static_cast<E*>(o.y.data),
                                              .x_stride = o.x.stride,
                                              .branch_stride = o.branch.stride,
                                              .sum_stride = o.sum.stride,
                                              .y_stride = o.y.stride,
                                              .width = p.width,
                                              .eps = p.eps};
      return device::launch<Kernel>(p.rows, kRowThreads / device::kWarp * 4, params, stream);
    });
  });
}

Arguments check(const RmsNorm& p, const Operands& o) {
  return Arguments()
      .size("rows", p.rows)
      .size("width", p.width)
      .matrix("x", o.x, p.type, p.width)
      .vector("weight", o.weight, p.type)
      .matrix("y", o.y, p.type, p.width);
}

}  // namespace

Launch rms_norm_forward(const RmsNorm& p, ConstRows x, const void* weight, Rows y, Stream stream) {
  const Operands o = {x, {nullptr, 0}, weight, {}, y};
  const Arguments a = check(p, o);
  return a.ok() ? forward<false>(p, o, stream) : a.answer;
}

Launch rms_norm_residual_forward(const RmsNorm& p, ConstRows x, ConstRows branch, const void* weight, Rows sum, Rows y, Stream stream) {
  const Operands o = {x, branch, weight, sum, y};
  const Arguments a = check(p, o)
                          .matrix("branch", branch, p.type, p.width)
                          .matrix("sum", sum, p.type, p.width)
                          .require(y.data != sum.data, "y", "may not be the sum: both are outputs");
  return a.ok() ? forward<true>(p, o, stream) : a.answer;
}

}  // namespace longlora::kernels
