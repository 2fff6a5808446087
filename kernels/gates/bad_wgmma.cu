// Self-test of scripts/kernel_resources.py: an accumulator that is read before the wait makes ptxas serialise all wgmma (C75xx lines).
#include <cstdint>

__device__ void issue(float (&d)[4], uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b));
#endif
}

__global__ void __launch_bounds__(128) bad_wgmma(float* y, uint64_t a, uint64_t b) {
  float d[4] = {};
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  issue(d, a, b);
  d[0] += 1.f;  // here
  issue(d, a, b);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
  for (int i = 0; i < 4; ++i) y[i * 128 + threadIdx.x] = d[i];
}
void launch_bad_wgmma(float* y, uint64_t a, uint64_t b) { bad_wgmma<<<1, 128>>>(y, a, b); }
