#pragma once
// What launchers check on the host before they enqueue anything.
#include <cstdint>

#include "device/vocabulary.h"

namespace longlora::kernels {

/// Collects the first complaint: Arguments().size("rows", n).matrix("x", x, type, width).answer
struct Arguments {
  Launch answer;

  Arguments& require(bool condition, const char* argument, const char* problem) {
    if (answer.ok() && !condition) answer = {argument, problem};
    return *this;
  }
  Arguments& size(const char* name, int64_t value) { return require(value > 0, name, "must be positive"); }
  Arguments& pointer(const char* name, const void* p, int64_t alignment) {
    require(p != nullptr, name, "is null");
    return require(reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(alignment) == 0, name, "is not aligned to its element");
  }
  Arguments& vector(const char* name, const void* p, ElementType type) { return pointer(name, p, element_bytes(type)); }
  Arguments& matrix(const char* name, ConstRows rows, ElementType type, int64_t width) {
    require(rows.stride >= width, name, "has a row stride below its width");
    return vector(name, rows.data, type);
  }
  bool ok() const { return answer.ok(); }
};

inline bool on_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
/// Every row begins at a multiple of 16 bytes.
inline bool on_16_bytes(ConstRows rows, ElementType type) { return on_16_bytes(rows.data) && rows.stride * element_bytes(type) % 16 == 0; }

/// f.operator()<E>() for the element type
template <class F>
Launch with_type(ElementType type, F f) {
  switch (type) {
    case ElementType::fp32:
      return f.template operator()<float>();
    case ElementType::bf16:
      return f.template operator()<device::bf16>();
    case ElementType::fp16:
      return f.template operator()<device::fp16>();
  }
  return {"type", "is none of fp32, bf16, fp16"};
}

}  // namespace longlora::kernels
