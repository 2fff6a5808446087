#include "longlora/ops/host_list.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "longlora/ops/accelerator.h"

namespace longlora {
namespace {

template <class T>
at::Tensor upload_list(std::span<const T> list, at::ScalarType type, const at::Device& device) {
  if (device.is_cpu()) return {};
  const auto count = static_cast<int64_t>(list.size());
  at::Tensor there = at::empty({count}, at::TensorOptions().dtype(type).device(device));
  if (count == 0) return there;
  const at::Tensor staged = accelerator::staging({count}, type);
  std::memcpy(staged.data_ptr(), list.data(), list.size_bytes());
  there.copy_(staged, /*non_blocking=*/true);
  return there;
}

}  // namespace

at::Tensor upload(std::span<const int32_t> list, const at::Device& device) { return upload_list(list, at::kInt, device); }
at::Tensor upload(std::span<const int64_t> list, const at::Device& device) { return upload_list(list, at::kLong, device); }

}  // namespace longlora
