// LibTorch's PrivateUse1 backend on the arena. Few operations are written here: allocation, views, copies and products with an fp32 result;
// everything else is LibTorch's CPU fallback, which copies its arguments to the host and the results back.
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_copy_from.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "device/arena.h"
#include "device/fake_device.h"

namespace longlora::fake {
namespace {

void delete_piece(void* data) { release(data); }

struct ArenaAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &delete_piece, device()};
    void* data = fake::allocate(bytes);
    return {data, data, &delete_piece, device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &delete_piece; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const Access access;
    std::memcpy(to, from, bytes);
  }
};

ArenaAllocator& allocator() {
  static ArenaAllocator one;
  return one;
}

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor empty_memory_format(c10::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                               std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &allocator(), kKeys, c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(sizes, strides, &allocator(), kKeys, c10::dtype_or_default(type));
}

/// The same memory as a tensor of the host: to be used while an Access lives.
at::Tensor host_alias(const at::Tensor& t) {
  if (t.is_cpu()) return t;
  return at::from_blob(const_cast<void*>(t.const_data_ptr()), t.sizes(), t.strides(), at::TensorOptions().dtype(t.scalar_type()));
}

int64_t read_count = 0;
int fallback_depth = 0;
struct InFallback {  // its own copies are no reads of the program
  InFallback() { ++fallback_depth; }
  ~InFallback() { --fallback_depth; }
};

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (to.is_cpu() && fallback_depth == 0) ++read_count;
  const Access access;
  host_alias(to).copy_(host_alias(from));
  return to;
}

const at::Tensor& resize(const at::Tensor& t, c10::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  if (t.sizes() == sizes) return t;
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * t.element_size();
  const at::Storage& storage = t.storage();
  if (storage.nbytes() < bytes) {  // results that LibTorch begins empty
    TORCH_CHECK(storage.nbytes() == 0, "the fake device resizes empty tensors only");
    storage.set_data_ptr_noswap(allocator().allocate(bytes));
    storage.set_nbytes(bytes);
  }
  t.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return t;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  resize(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

/// bf16 factors, fp32 result, as cuBLAS has it.
at::Tensor& mm_wide_out(const at::Tensor& left, const at::Tensor& right, at::ScalarType type, at::Tensor& out) {
  TORCH_CHECK(type == at::kFloat && out.scalar_type() == type && left.scalar_type() == right.scalar_type());
  TORCH_CHECK(left.scalar_type() == at::kBFloat16 || left.scalar_type() == at::kHalf, "out_dtype is for bf16 and fp16 factors");
  const InFallback here;
  out.copy_(at::mm(left.cpu().to(type), right.cpu().to(type)));
  return out;
}

at::Scalar local_scalar_dense(const at::Tensor& t) { return t.cpu().item(); }

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const InFallback here;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty_memory_format);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", static_cast<at::Tensor (*)(const at::Tensor&, at::IntArrayRef)>(&at::native::view));
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("_copy_from", &copy_from);
  m.impl("resize_", &resize);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("mm.dtype_out", &mm_wide_out);
  m.impl("_local_scalar_dense", &local_scalar_dense);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1>)

}  // namespace

int64_t reads() { return read_count; }
at::Device device() { return at::Device(at::kPrivateUse1, 0); }

}  // namespace longlora::fake
