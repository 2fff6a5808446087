#pragma once
// What the bandwidth kernels share: 16 bytes of elements at a time with predicated tails, sums over a block, the map from blocks to rows.
#include "common/arguments.h"
#include "device/vocabulary.h"

namespace longlora::kernels {

using device::Bits128;
using device::kPer128;

/// kWhole: p is a multiple of 16 bytes and all elements exist: one access. Otherwise the elements p[0 .. min(count, kPer128)), zeros behind
/// them. A kernel decides between the two once for all its accesses: a branch around each would keep the loads from going out together.
template <class E, bool kWhole>
LONGLORA_DEVICE Bits128 load_vector(const E* p, int64_t count) {
  if constexpr (kWhole) {
    return device::load_128(p);
  } else {
    Bits128 bits = {{0, 0, 0, 0}};
    LONGLORA_UNROLL
    for (int i = 0; i < kPer128<E>; ++i) {
      if (i >= count) continue;
      if constexpr (sizeof(E) == 4)
        bits.word[i] = device::float_to_bits(device::load(p + i));
      else
        bits.word[i / 2] |= static_cast<uint32_t>(device::load(p + i).bits) << (16 * (i % 2));
    }
    return bits;
  }
}
template <class E, bool kWhole>
LONGLORA_DEVICE void store_vector(E* p, int64_t count, const Bits128& bits) {
  if constexpr (kWhole) {
    device::store_128(p, bits);
  } else {
    LONGLORA_UNROLL
    for (int i = 0; i < kPer128<E>; ++i) {
      if (i >= count) continue;
      if constexpr (sizeof(E) == 4)
        device::store(p + i, device::bits_to_float(bits.word[i]));
      else
        device::store(p + i, E{static_cast<uint16_t>(bits.word[i / 2] >> (16 * (i % 2)))});
    }
  }
}

/// f.operator()<whole>(): for sizes of which the last N elements may be fewer.
template <bool kAligned, int N, class F>
LONGLORA_DEVICE void whole_or_part(int64_t count, F f) {
  if (kAligned && count >= N)
    f.template operator()<kAligned>();
  else
    f.template operator()<false>();
}

/// N elements (a multiple of a vector) as floats and back; one rounding.
template <class E, bool kWhole, int N>
LONGLORA_DEVICE void load_floats(const E* p, int64_t count, float (&x)[N]) {
  static_assert(N % kPer128<E> == 0);
  LONGLORA_UNROLL
  for (int at = 0; at < N; at += kPer128<E>) {
    float piece[kPer128<E>];
    device::unpack<E>(load_vector<E, kWhole>(p + at, count - at), piece);
    LONGLORA_UNROLL
    for (int i = 0; i < kPer128<E>; ++i) x[at + i] = piece[i];
  }
}
template <class E, bool kWhole, int N>
LONGLORA_DEVICE void store_floats(E* p, int64_t count, const float (&x)[N]) {
  static_assert(N % kPer128<E> == 0);
  LONGLORA_UNROLL
  for (int at = 0; at < N; at += kPer128<E>) {
    float piece[kPer128<E>];
    LONGLORA_UNROLL
    for (int i = 0; i < kPer128<E>; ++i) piece[i] = x[at + i];
    store_vector<E, kWhole>(p + at, count - at, device::pack<E>(piece));
  }
}

/// The sum over a block in every thread: butterfly in the warp, then the warps in order. `slots`: kThreads / 32 values of shared memory
/// that no thread may still be reading from an earlier call.
template <int kThreads, class T>
LONGLORA_DEVICE T block_sum(T value, T* slots) {
  constexpr int kWarps = kThreads / device::kWarp;
  value = device::warp_sum(value);
  if (device::lane_index() == 0) device::store(slots + device::warp_index(), value);
  device::sync_block();
  T sum = device::load(slots);
  LONGLORA_UNROLL
  for (int w = 1; w < kWarps; ++w) sum += device::load(slots + w);
  return sum;
}

/// `items` of every row dealt to threads, one each: whole rows share a block while they fit, longer rows take several blocks.
struct Deal {
  int64_t rows = 0, items = 0;
  int rows_per_block = 1, blocks_per_row = 1;

  static Deal of(int64_t rows, int64_t items, int threads) {
    if (items >= threads) return {rows, items, 1, static_cast<int>((items + threads - 1) / threads)};
    return {rows, items, threads / static_cast<int>(items), 1};
  }
  int64_t blocks() const { return (rows + rows_per_block - 1) / rows_per_block * blocks_per_row; }
};
struct Share {
  int64_t row, item;
  bool exists;
};
template <int kThreads>
LONGLORA_DEVICE Share share_of(const Deal& d) {
  const int block = device::block_index(), thread = device::thread_index();
  if (d.rows_per_block == 1) {
    const int64_t row = block / d.blocks_per_row, item = int64_t{block % d.blocks_per_row} * kThreads + thread;
    return {row, item, item < d.items};
  }
  const int items = static_cast<int>(d.items), local = thread / items;
  const int64_t row = int64_t{block} * d.rows_per_block + local;
  return {row, thread % items, local < d.rows_per_block && row < d.rows};
}

}  // namespace longlora::kernels
