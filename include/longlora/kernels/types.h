#pragma once
// What all kernel launchers share. No CUDA and no tensor types: plain device pointers, strides in elements, a stream as void*.
#include <cstdint>

namespace longlora::kernels {

enum class ElementType { fp32, bf16, fp16 };

constexpr int64_t element_bytes(ElementType t) { return t == ElementType::fp32 ? 4 : 2; }

/// A cudaStream_t; null is the default stream. The emulator ignores it: its launches have finished when they return.
using Stream = void*;

/// What a launcher answers. Nothing was enqueued unless ok(). `argument` names what is wrong, `problem` says why: both are static texts.
struct [[nodiscard]] Launch {
  const char* argument = nullptr;
  const char* problem = nullptr;
  bool ok() const { return argument == nullptr; }
};

/// [rows, width] with the last stride 1 and any row stride, in elements.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
};
struct ConstRows {
  const void* data = nullptr;
  int64_t stride = 0;
  ConstRows(const void* d, int64_t s) : data(d), stride(s) {}
  ConstRows(Rows r) : data(r.data), stride(r.stride) {}
};

}  // namespace longlora::kernels
