#pragma once
// The vocabulary every kernel is written in. It has two bodies: cuda_body.h for nvcc, emu/body.h for g++ with -DLONGLORA_EMU, where one
// fiber plays one thread. Kernel sources name nothing else of the machine: no assembly, no <<<>>>, no threadIdx (a test greps for them).
//
// A kernel is a struct:
//   struct Scale {
//     struct Params { const float* x; float* y; int64_t n; float by; };
//     static constexpr int kThreads = 128;      // of a block
//     static constexpr int kMinBlocks = 4;      // blocks an SM should hold: bounds the registers
//     LONGLORA_DEVICE static void run(const Params& p) {
//       const int64_t i = int64_t{block_index()} * kThreads + thread_index();
//       if (i < p.n) store(p.y + i, load(p.x + i) * p.by);
//     }
//   };
//   Launch l = device::launch<Scale>(blocks, shared_bytes, params, stream);
//
// The words, in namespace longlora::device (both bodies have exactly these):
//   thread_index() block_index() num_blocks() lane_index() warp_index()
//   sync_block() sync_named(barrier 1..15, threads) sync_warp()          order memory between the threads they join
//   shuffle_xor(value, mask) shuffle(value, lane) warp_sum(value) warp_max(value)   all 32 lanes; butterfly order 16 8 4 2 1
//   shared_memory<T>()                                                   the block's dynamic shared memory, 1024-byte aligned
//   load(T*) store(T*, value) load_128(p) store_128(p, bits)             global or shared, naturally aligned
//   load_streamed(T*) store_streamed(...) load_128_streamed store_128_streamed      data that is not used again soon
//   load_matrices<N>(fragments[N][4], rows[N]) load_matrices_transposed   N times ldmatrix.x4
//   multiply_accumulate<E, N>(c[N][4], a[4], b[N/2][4])                   N times mma.sync.m16n8k16 with one A
//   copy_async_16(shared, global, valid) commit_copies() wait_copies<N>() cp.async; invalid writes 16 zero bytes and reads nothing
//   exp2 log exp rsqrt sqrt divide, pack2<E>(low, high), to_float(e), from_float<E>(x), unpack / pack of 16 bytes
//   opaque(x)                                                            x; what is computed from it is not kept in registers over a loop
//   atomic_add(int*, int)                                                work distribution only; there is no float atomic
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::device {

using kernels::Launch;
using kernels::Stream;

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

struct alignas(16) Bits128 {
  uint32_t word[4];
};

inline constexpr int kWarp = 32;
/// Elements of E in 16 bytes.
template <class E>
inline constexpr int kPer128 = 16 / static_cast<int>(sizeof(E));

}  // namespace longlora::device

#if defined(LONGLORA_EMU)
#include "emu/body.h"
#else
#include "device/cuda_body.h"
#endif

namespace longlora::device {

/// 16 bytes of E as floats and back; one rounding, to nearest even.
template <class E>
LONGLORA_DEVICE void unpack(const Bits128& bits, float (&x)[kPer128<E>]) {
  if constexpr (sizeof(E) == 4) {
    LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = bits_to_float(bits.word[i]);
  } else {
    LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) unpack2<E>(bits.word[i], x[2 * i], x[2 * i + 1]);
  }
}
template <class E>
LONGLORA_DEVICE Bits128 pack(const float (&x)[kPer128<E>]) {
  Bits128 bits;
  if constexpr (sizeof(E) == 4) {
    LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) bits.word[i] = float_to_bits(x[i]);
  } else {
    LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) bits.word[i] = pack2<E>(x[2 * i], x[2 * i + 1]);
  }
  return bits;
}

}  // namespace longlora::device
