#include <cstdlib>
#include <new>

#include "emu/runtime.h"
#include "kernels/support/device_memory.h"

namespace longlora::testing {

// The guard zones at both ends stay outside what kernels may touch.
constexpr size_t kGuard = 1024;

void* device_allocate(size_t bytes, const std::string& name) {
  void* p = nullptr;
  if (posix_memalign(&p, 1024, bytes) != 0) throw std::bad_alloc();
  std::memset(p, emu::kPoison, bytes);
  emu::register_buffer(static_cast<char*>(p) + kGuard, bytes - 2 * kGuard, name);
  return p;
}
void device_free(void* p) {
  emu::forget_buffer(static_cast<char*>(p) + kGuard);
  std::free(p);
}
void to_device(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void to_host(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

}  // namespace longlora::testing
