// Self-test of scripts/kernel_resources.py: 96 live values under a bound of 32 registers must be spilled.
__global__ void __launch_bounds__(1024, 2) bad_spill(const float* x, float* y) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i] + v[(i * 7) % 96];
}
void launch_bad_spill(const float* x, float* y) { bad_spill<<<1, 1024>>>(x, y); }
