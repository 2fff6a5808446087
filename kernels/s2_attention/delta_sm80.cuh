#pragma once
// The row sums that both backward kernels read.
#include "s2_attention/backward_params.cuh"

namespace longlora::kernels {

struct DeltaParams {
  int rows, num_heads, head_size, q_begin, q_end;
  HeadView o, d_o;
  StatisticsView delta;
};

/// delta[h,t] = sum_d dO[t,h,d] O[t,h,d]: D/8 lanes a pair of rows, 16 bytes a lane.
template <class E, int D>
struct DeltaSm80 {
  using Params = DeltaParams;
  static constexpr int kThreads = 128, kMinBlocks = 8, kLanes = D / 8, kPerBlock = kThreads / kLanes;
  static int64_t num_blocks(int64_t rows, int64_t tokens, int64_t heads) { return (rows * tokens * heads + kPerBlock - 1) / kPerBlock; }

  LONGLORA_DEVICE static void run(const Params& p) {
    const int lane = device::thread_index() % kLanes;
    const int64_t tokens = p.q_end - p.q_begin, item = int64_t{device::block_index()} * kPerBlock + device::thread_index() / kLanes;
    const bool valid = item < p.rows * tokens * p.num_heads;
    const int64_t head = item % p.num_heads, token = item / p.num_heads % tokens, row = item / p.num_heads / tokens;
    float sum = 0.0f;
    if (valid) {
      float x[8], y[8];
      device::unpack<E>(device::load_128(at<E>(p.o, row, head, token, 0) + lane * 8), x);
      device::unpack<E>(device::load_128(at<E>(p.d_o, row, head, token, 0) + lane * 8), y);
      LONGLORA_UNROLL
      for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
    }
    LONGLORA_UNROLL
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += device::shuffle_xor(sum, distance);
    if (valid && lane == 0) device::store(at(p.delta, row, head, token, 0), sum);
  }
};

}  // namespace longlora::kernels
