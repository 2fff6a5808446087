#pragma once
// Rows more than 2^31 elements apart, in address space that takes memory only where it is touched. Emulator only: its bounds checks keep
// a record per byte, so they are off for these.
#if defined(LONGLORA_EMU)
#include <sys/mman.h>

#include <functional>
#include <new>

#include "emu/runtime.h"
#include "kernels/support/matrix.h"

namespace longlora::testing {

class FarRows {
 public:
  static constexpr int64_t kStride = (int64_t{1} << 31) + 64;

  FarRows(ElementType type, int64_t rows, int64_t width) : type_(type), rows_(rows), width_(width) {
    bytes_ = static_cast<size_t>(((rows - 1) * kStride + width) * element_bytes(type));
    base_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  FarRows(const FarRows&) = delete;
  FarRows& operator=(const FarRows&) = delete;
  ~FarRows() { munmap(base_, bytes_); }

  Rows view() const { return {base_, kStride}; }
  void write(const Values& values) {
    given.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = encode(type_, values[i]);
      given[i] = decode(type_, bits);
      std::memcpy(at(i), &bits, static_cast<size_t>(element_bytes(type_)));
    }
  }
  Values read() const {
    Values values(static_cast<size_t>(rows_ * width_));
    for (size_t i = 0; i < values.size(); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, at(i), static_cast<size_t>(element_bytes(type_)));
      values[i] = decode(type_, bits);
    }
    return values;
  }

  Values given;

 private:
  char* at(size_t i) const {
    const auto index = static_cast<int64_t>(i);
    return static_cast<char*>(base_) + (index / width_ * kStride + index % width_) * element_bytes(type_);
  }
  ElementType type_;
  int64_t rows_, width_;
  size_t bytes_;
  void* base_;
};

inline void without_bounds(const std::function<void()>& run) {
  emu::options().check_bounds = false;
  run();
  emu::options().check_bounds = true;
}

}  // namespace longlora::testing
#endif
