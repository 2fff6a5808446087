// Backward: a block takes some rows one after another, so that the weight's gradient of its columns stays in registers; the blocks' partial
// sums meet in a second kernel, in order.
#include "common/vectors.cuh"
#include "longlora/kernels/rms_norm.h"
#include "rms_norm/row.cuh"

namespace longlora::kernels {
namespace {

/// Rows of one partial sum: few enough to fill the machine with short batches, many enough that the partial sums are little traffic.
int64_t rows_of_block(int64_t rows) { return rows <= 16384 ? 16 : 64; }
int64_t partial_stride(int64_t width) { return (width + 7) / 8 * 8; }

template <class E, int kRowThreads, int kVectors, bool kAligned, bool kWeight>
struct RmsNormBackward {
  struct Params {
    const E *x, *weight, *d_y;
    E* d_x;
    float* partial;  // [blocks, partial_stride]
    int64_t x_stride, d_y_stride, d_x_stride, partial_stride, rows, rows_of_block, width;
    float eps;
    bool add;
  };
  static constexpr int kThreads = kRowThreads;
  // threads of an SM: what leaves enough registers for a row, its gradient, the weight and the weight's gradient
  static constexpr int kMinBlocks = (kVectors == 4 ? 256 : kVectors == 2 ? 512 : 768) / kThreads;
  static constexpr int kPer = kPer128<E>, kKept = kVectors > 0 ? kVectors : 1;

  LONGLORA_DEVICE static void run(const Params& p) {
    float d_weight[kKept][kPer] = {};
    Bits128 weight[kKept];
    for_vectors<E, kThreads, kVectors>(p.width, [&](int v, int64_t i) {
      if constexpr (kVectors > 0) weight[v] = load_vector<E, kAligned>(p.weight + i, p.width - i);
    });
    const int64_t first = int64_t{device::block_index()} * p.rows_of_block;
    const int64_t end = first + p.rows_of_block < p.rows ? first + p.rows_of_block : p.rows;
    float* slots = device::shared_memory<float>();
    for (int64_t row = first; row < end; ++row) {
      const E *x = p.x + row * p.x_stride, *d_y = p.d_y + row * p.d_y_stride;
      Bits128 kept_x[kKept], kept_d[kKept];
      float squares = 0, dot = 0;
      for_vectors<E, kThreads, kVectors>(p.width, [&](int v, int64_t i) {
        kept_x[v] = load_vector<E, kAligned>(x + i, p.width - i);
        kept_d[v] = load_vector<E, kAligned>(d_y + i, p.width - i);
        if constexpr (kVectors == 0) weight[v] = load_vector<E, kAligned>(p.weight + i, p.width - i);
        float a[kPer], d[kPer], w[kPer];
        device::unpack<E>(kept_x[v], a);
        device::unpack<E>(kept_d[v], d);
        device::unpack<E>(weight[v], w);
        LONGLORA_UNROLL
        for (int k = 0; k < kPer; ++k) {
          squares += a[k] * a[k];
          dot += w[k] * d[k] * a[k];
        }
      });
      // two sets of slots in turn: the barrier of one row keeps the next but one apart
      float* here = slots + row % 2 * 2 * (kThreads / device::kWarp);
      const Sums sums = block_sums(squares, dot, here);
      const float rstd = reciprocal_rms(sums.squares, p.width, p.eps);
      const float mean = device::divide(sums.dot * rstd, static_cast<float>(p.width));
      for_vectors<E, kThreads, kVectors>(p.width, [&](int v, int64_t i) {
        if constexpr (kVectors == 0) {
          kept_x[v] = load_vector<E, kAligned>(x + i, p.width - i);
          kept_d[v] = load_vector<E, kAligned>(d_y + i, p.width - i);
          weight[v] = load_vector<E, kAligned>(p.weight + i, p.width - i);
          if (kWeight && row > first) load_floats<float, true>(partial_row(p) + i, kPer, d_weight[v]);
        }
        finish_vector(p, row, i, rstd, mean, kept_x[v], kept_d[v], weight[v], d_weight[v], row == first);
        if constexpr (kVectors == 0 && kWeight) store_floats<float, true>(partial_row(p) + i, kPer, d_weight[v]);
      });
    }
    if constexpr (kVectors > 0 && kWeight)
      for_vectors<E, kThreads, kVectors>(p.width,
                                         [&](int v, int64_t i) { store_floats<float, true>(partial_row(p) + i, kPer, d_weight[v]); });
  }

 private:
  struct Sums {
    float squares, dot;
  };
  LONGLORA_DEVICE static float* partial_row(const Params& p) { return p.partial + int64_t{device::block_index()} * p.partial_stride; }

  LONGLORA_DEVICE static Sums block_sums(float squares, float dot, float* slots) {
    constexpr int kWarps = kThreads / device::kWarp;
    squares = device::warp_sum(squares);
    dot = device::warp_sum(dot);
    if (device::lane_index() == 0) {
      device::store(slots + device::warp_index(), squares);
      device::store(slots + kWarps + device::warp_index(), dot);
    }
    device::sync_block();
    Sums s = {device::load(slots), device::load(slots + kWarps)};
    LONGLORA_UNROLL
    for (int w = 1; w < kWarps; ++w) {
      s.squares += device::load(slots + w);
      s.dot += device::load(slots + kWarps + w);
    }
    return s;
  }

  LONGLORA_DEVICE static void finish_vector(const Params& p, int64_t row, int64_t i, float rstd, float mean, const Bits128& x_bits,
                                            const Bits128& d_bits, const Bits128& w_bits, float (&d_weight)[kPer], bool starts) {
    float x[kPer], d[kPer], w[kPer], before[kPer];
    device::unpack<E>(x_bits, x);
    device::unpack<E>(d_bits, d);
    device::unpack<E>(w_bits, w);
    E* d_x = p.d_x + row * p.d_x_stride + i;
    if (p.add) load_floats<E, kAligned>(d_x, p.width - i, before);
    LONGLORA_UNROLL
    for (int k = 0; k < kPer; ++k) {
      const float x_hat = x[k] * rstd;
      if constexpr (kWeight) d_weight[k] = (starts ? 0.0f : d_weight[k]) + d[k] * x_hat;
      d[k] = (w[k] * d[k] - x_hat * mean) * rstd + (p.add ? before[k] : 0.0f);
    }
    store_floats<E, kAligned>(d_x, p.width - i, d);
  }
};

/// d_weight += the partial sums: a warp a segment of the blocks, 32 columns wide, then the segments in order.
struct AddPartialSums {
  struct Params {
    const float* partial;
    float* d_weight;
    int64_t stride, blocks, width;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int kWarps = kThreads / device::kWarp, kAhead = 8;

  LONGLORA_DEVICE static void run(const Params& p) {
    const int warp = device::warp_index(), lane = device::lane_index();
    const int64_t column = int64_t{device::block_index()} * device::kWarp + lane;
    const int64_t begin = p.blocks * warp / kWarps, end = p.blocks * (warp + 1) / kWarps;
    float sum = 0;
    if (column < p.width) {
      const float* from = p.partial + column;
      int64_t b = begin;
      for (; b + kAhead <= end; b += kAhead) {  // loads that do not wait for each other, sums that do
        float ahead[kAhead];
        LONGLORA_UNROLL
        for (int k = 0; k < kAhead; ++k) ahead[k] = device::load(from + (b + k) * p.stride);
        LONGLORA_UNROLL
        for (int k = 0; k < kAhead; ++k) sum += ahead[k];
      }
      for (; b < end; ++b) sum += device::load(from + b * p.stride);
    }
    float* segments = device::shared_memory<float>();
    device::store(segments + device::thread_index(), sum);
    device::sync_block();
    if (warp != 0 || column >= p.width) return;
    float total = 0;
    LONGLORA_UNROLL
    for (int w = 0; w < kWarps; ++w) total += device::load(segments + w * device::kWarp + lane);
    device::store(p.d_weight + column, device::load(p.d_weight + column) + total);
  }
};

struct Operands {
  ConstRows x;
  const void* weight;
  ConstRows d_y;
  Rows d_x;
  bool add;
  float* partial;  // null: frozen
  int64_t rows_of_block;
};

template <bool kWeight>
Launch backward(const RmsNorm& p, const Operands& o, Stream stream) {
  const bool aligned = on_16_bytes(o.x, p.type) && on_16_bytes(o.weight) && on_16_bytes(o.d_y, p.type) && on_16_bytes(o.d_x, p.type);
  return with_type(p.type, [&]<class E>() {
    return with_row_shape<E>(aligned, p.width, [&]<int kRowThreads, int kVectors, bool kAligned>() {
      using Kernel = RmsNormBackward<E, kRowThreads, kVectors, kAligned, kWeight>;
      const typename Kernel::Params params = {.x = static_cast<const E*>(o.x.data),
                                              .weight = static_cast<const E*>(o.weight),
                                              .d_y = static_cast<const E*>(o.d_y.data),
                                              .d_x = static_cast<E*>(o.d_x.data),
                                              .partial = o.partial,
                                              .x_stride = o.x.stride,
                                              .d_y_stride = o.d_y.stride,
                                              .d_x_stride = o.d_x.stride,
                                              .partial_stride = partial_stride(p.width),
                                              .rows = p.rows,
                                              .rows_of_block = o.rows_of_block,
                                              .width = p.width,
                                              .eps = p.eps,
                                              .add = o.add};
      const int64_t blocks = (p.rows + o.rows_of_block - 1) / o.rows_of_block;
      return device::launch<Kernel>(blocks, kRowThreads / device::kWarp * 4 * 4, params, stream);
    });
  });
}

}  // namespace

int64_t rms_norm_backward_workspace_bytes(const RmsNorm& p) {
  const int64_t per_block = rows_of_block(p.rows);
  return (p.rows + per_block - 1) / per_block * partial_stride(p.width) * 4;
}

Launch rms_norm_backward(const RmsNorm& p, ConstRows x, const void* weight, ConstRows d_y, Rows d_x, bool add_to_d_x, float* d_weight,
                         void* workspace, Stream stream) {
  Arguments a;
  a.size("rows", p.rows).size("width", p.width).matrix("x", x, p.type, p.width).vector("weight", weight, p.type);
  a.matrix("d_y", d_y, p.type, p.width).matrix("d_x", d_x, p.type, p.width);
  a.require(!add_to_d_x || (d_x.data != d_y.data && d_x.data != x.data), "d_x", "is added to and may not be d_y or x");
  if (d_weight != nullptr) a.vector("d_weight", d_weight, ElementType::fp32).pointer("workspace", workspace, 16);
  if (!a.ok()) return a.answer;

  Operands o = {x, weight, d_y, d_x, add_to_d_x, nullptr, 1};
  if (d_weight == nullptr) return backward<false>(p, o, stream);
  o.partial = static_cast<float*>(workspace);
  o.rows_of_block = rows_of_block(p.rows);
  const Launch rows = backward<true>(p, o, stream);
  if (!rows.ok()) return rows;
  const int64_t blocks = (p.rows + o.rows_of_block - 1) / o.rows_of_block;
  const AddPartialSums::Params params = {o.partial, d_weight, partial_stride(p.width), blocks, p.width};
  return device::launch<AddPartialSums>((p.width + device::kWarp - 1) / device::kWarp, AddPartialSums::kThreads * 4, params, stream);
}

}  // namespace longlora::kernels
