// Self-test of scripts/kernel_resources.py: a local array with a run-time index lives on the stack.
__global__ void __launch_bounds__(128) bad_stack(const float* x, const int* index, float* y) {
  float v[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = x[i * 128 + threadIdx.x];
  for (int i = 0; i < 16; ++i) v[index[i] & 15] += v[(index[i] >> 4) & 15];
  y[threadIdx.x] = v[index[threadIdx.x] & 15];
}
void launch_bad_stack(const float* x, const int* index, float* y) { bad_stack<<<1, 128>>>(x, index, y); }
