#pragma once
// The vocabulary on a GPU: the only place with assembly, intrinsics and built-in variables. sm_80 and later.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "device/vocabulary.h"

#define LONGLORA_DEVICE __device__ __forceinline__
#define LONGLORA_PRAGMA(text) _Pragma(#text)
#define LONGLORA_UNROLL _Pragma("unroll")
#define LONGLORA_UNROLL_BY(n) LONGLORA_PRAGMA(unroll n)

namespace longlora::device {

inline constexpr unsigned kAllLanes = 0xffffffffu;

LONGLORA_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LONGLORA_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
LONGLORA_DEVICE int num_blocks() { return static_cast<int>(gridDim.x); }
LONGLORA_DEVICE int lane_index() { return thread_index() & 31; }
// the shuffle tells the compiler that the number is the same in the whole warp
LONGLORA_DEVICE int warp_index() { return __shfl_sync(kAllLanes, thread_index() >> 5, 0); }

LONGLORA_DEVICE void sync_block() { __syncthreads(); }
LONGLORA_DEVICE void sync_named(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
LONGLORA_DEVICE void sync_warp() { __syncwarp(); }

template <class T>
LONGLORA_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
template <class T>
LONGLORA_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <class T>
LONGLORA_DEVICE T warp_sum(T value) {
  LONGLORA_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
  return value;
}
LONGLORA_DEVICE float warp_max(float value) {
  LONGLORA_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

template <class T>
LONGLORA_DEVICE T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char longlora_shared_memory[];
  return reinterpret_cast<T*>(longlora_shared_memory);
}

template <class T>
LONGLORA_DEVICE T load(const T* p) {
  return *p;
}
template <class T>
LONGLORA_DEVICE void store(T* p, T value) {
  *p = value;
}
LONGLORA_DEVICE Bits128 load_128(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
LONGLORA_DEVICE void store_128(void* p, const Bits128& b) {
  *static_cast<uint4*>(p) = make_uint4(b.word[0], b.word[1], b.word[2], b.word[3]);
}
template <class T>
LONGLORA_DEVICE T load_streamed(const T* p) {
  return __ldcs(p);
}
LONGLORA_DEVICE bf16 load_streamed(const bf16* p) { return {__ldcs(reinterpret_cast<const unsigned short*>(p))}; }
LONGLORA_DEVICE fp16 load_streamed(const fp16* p) { return {__ldcs(reinterpret_cast<const unsigned short*>(p))}; }
template <class T>
LONGLORA_DEVICE void store_streamed(T* p, T value) {
  __stcs(p, value);
}
LONGLORA_DEVICE void store_streamed(bf16* p, bf16 value) { __stcs(reinterpret_cast<unsigned short*>(p), value.bits); }
LONGLORA_DEVICE void store_streamed(fp16* p, fp16 value) { __stcs(reinterpret_cast<unsigned short*>(p), value.bits); }
LONGLORA_DEVICE Bits128 load_128_streamed(const void* p) {
  const uint4 v = __ldcs(static_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
LONGLORA_DEVICE void store_128_streamed(void* p, const Bits128& b) {
  __stcs(static_cast<uint4*>(p), make_uint4(b.word[0], b.word[1], b.word[2], b.word[3]));
}

LONGLORA_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

template <int N>
LONGLORA_DEVICE void load_matrices(uint32_t (&r)[N][4], const void* const (&rows)[N]) {
  LONGLORA_UNROLL
  for (int i = 0; i < N; ++i)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3])
                 : "r"(shared_address(rows[i])));
}
template <int N>
LONGLORA_DEVICE void load_matrices_transposed(uint32_t (&r)[N][4], const void* const (&rows)[N]) {
  LONGLORA_UNROLL
  for (int i = 0; i < N; ++i)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3])
                 : "r"(shared_address(rows[i])));
}

template <class E, int N>
LONGLORA_DEVICE void multiply_accumulate(float (&c)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N / 2][4]) {
  LONGLORA_UNROLL
  for (int i = 0; i < N; ++i) {
    if constexpr (sizeof(E) == 2 && __is_same(E, bf16))
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i / 2][2 * (i % 2)]), "r"(b[i / 2][2 * (i % 2) + 1]));
    else
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i / 2][2 * (i % 2)]), "r"(b[i / 2][2 * (i % 2) + 1]));
  }
}

LONGLORA_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
LONGLORA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
LONGLORA_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

LONGLORA_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // 2 ulp; -inf gives 0
  return y;
}
LONGLORA_DEVICE float exp(float x) { return expf(x); }
LONGLORA_DEVICE float log(float x) { return logf(x); }
LONGLORA_DEVICE float rsqrt(float x) { return rsqrtf(x); }
LONGLORA_DEVICE float sqrt(float x) { return __fsqrt_rn(x); }
LONGLORA_DEVICE double sqrt(double x) { return ::sqrt(x); }
LONGLORA_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
LONGLORA_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
LONGLORA_DEVICE float infinity() { return __int_as_float(0x7f800000); }
LONGLORA_DEVICE float bits_to_float(uint32_t b) { return __uint_as_float(b); }
LONGLORA_DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

LONGLORA_DEVICE float to_float(float x) { return x; }
LONGLORA_DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LONGLORA_DEVICE float to_float(fp16 x) { return __half2float(__ushort_as_half(x.bits)); }
template <class E>
LONGLORA_DEVICE E from_float(float x) {
  if constexpr (__is_same(E, float))
    return x;
  else if constexpr (__is_same(E, bf16))
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  else
    return fp16{__half_as_ushort(__float2half_rn(x))};
}
template <class E>
LONGLORA_DEVICE uint32_t pack2(float low, float high) {
  if constexpr (__is_same(E, bf16)) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
  } else {
    const __half2 v = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
  }
}
template <class E>
LONGLORA_DEVICE void unpack2(uint32_t bits, float& low, float& high) {
  low = to_float(E{static_cast<uint16_t>(bits & 0xffffu)});
  high = to_float(E{static_cast<uint16_t>(bits >> 16)});
}

LONGLORA_DEVICE int opaque(int x) {
  int y;
  asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

LONGLORA_DEVICE int atomic_add(int* p, int value) { return atomicAdd(p, value); }

template <class K>
__global__ void __launch_bounds__(K::kThreads, K::kMinBlocks) kernel_entry(const __grid_constant__ typename K::Params p) {
  K::run(p);
}

/// Enqueues `blocks` blocks of K. Errors of the CUDA runtime come back as text; nothing is synchronised.
template <class K>
Launch launch(int64_t blocks, int64_t shared_bytes, const typename K::Params& params, Stream stream) {
  if (blocks <= 0) return {};
  if (blocks > 0x7fffffff) return {"blocks", "more than 2^31 - 1 blocks in one launch"};
  if (shared_bytes > 48 * 1024) {
    const cudaError_t e =
        cudaFuncSetAttribute(kernel_entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (e != cudaSuccess) return {"shared memory", cudaGetErrorString(e)};
  }
  kernel_entry<K>
      <<<static_cast<unsigned>(blocks), K::kThreads, static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream)>>>(params);
  const cudaError_t e = cudaGetLastError();
  return e == cudaSuccess ? Launch{} : Launch{"launch", cudaGetErrorString(e)};
}

}  // namespace longlora::device
