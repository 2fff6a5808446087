#include <cuda_runtime.h>

#include "kernels/support/device_memory.h"

namespace longlora::testing {
namespace {
void require(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(e));
}
}  // namespace

void* device_allocate(size_t bytes, const std::string& name) {
  void* p = nullptr;
  require(cudaMalloc(&p, bytes), name.c_str());
  require(cudaMemset(p, 0xff, bytes), name.c_str());
  return p;
}
void device_free(void* p) { cudaFree(p); }
void to_device(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
void to_host(void* to, const void* from, size_t bytes) { require(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy to the host"); }

}  // namespace longlora::testing
