#pragma once
// Device memory of a test, the same in the emulator and on a GPU (emu_memory.cpp, cuda_memory.cu): poisoned when made, between guard zones
// that `read` checks.
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace longlora::testing {

/// Poisoned (every byte 0xff: NaN as fp32, bf16 and fp16).
void* device_allocate(size_t bytes, const std::string& name);
void device_free(void*);
void to_device(void* to, const void* from, size_t bytes);
/// Waits for everything enqueued before; throws with the runtime's text if something failed.
void to_host(void* to, const void* from, size_t bytes);

template <class T>
class DeviceArray {
 public:
  DeviceArray(std::string name, size_t count) : name_(std::move(name)), count_(count) {
    base_ = static_cast<char*>(device_allocate(kGuard + bytes() + kGuard, name_));
    const std::vector<unsigned char> zone(kGuard, kMark);
    to_device(base_, zone.data(), kGuard);
    to_device(base_ + kGuard + bytes(), zone.data(), kGuard);
  }
  DeviceArray(std::string name, const std::vector<T>& values) : DeviceArray(std::move(name), values.size()) { write(values); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { device_free(base_); }

  T* data() { return reinterpret_cast<T*>(base_ + kGuard); }
  size_t size() const { return count_; }
  void write(const std::vector<T>& values) { to_device(data(), values.data(), values.size() * sizeof(T)); }
  void poison() {
    const std::vector<unsigned char> bad(bytes(), 0xff);
    to_device(base_ + kGuard, bad.data(), bytes());
  }
  std::vector<T> read() {
    std::vector<T> values(count_);
    to_host(values.data(), base_ + kGuard, bytes());
    check_guard(base_, "before");
    check_guard(base_ + kGuard + bytes(), "behind");
    return values;
  }

 private:
  static constexpr size_t kGuard = 1024;
  static constexpr unsigned char kMark = 0xa5;
  size_t bytes() const { return count_ * sizeof(T); }
  void check_guard(const char* zone, const char* side) {
    std::vector<unsigned char> seen(kGuard);
    to_host(seen.data(), zone, kGuard);
    for (const unsigned char c : seen)
      if (c != kMark) throw std::runtime_error(std::string("something was written ") + side + " '" + name_ + "'");
  }

  std::string name_;
  size_t count_;
  char* base_;
};

}  // namespace longlora::testing
