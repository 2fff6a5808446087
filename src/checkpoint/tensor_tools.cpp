#include "checkpoint/tensor_tools.h"

#include <ATen/Parallel.h>
#include <ATen/ops/isfinite.h>

#include <mutex>

#include "longlora/core/error.h"
#include "longlora/ops/state_lanes.h"

namespace longlora {
namespace {

constexpr int64_t kWordsPerTask = int64_t{1} << 16;

}  // namespace

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return at::kDouble;
    case DType::f32:
      return at::kFloat;
    case DType::f16:
      return at::kHalf;
    case DType::bf16:
      return at::kBFloat16;
    default:
      break;
  }
  fail(ErrorKind::internal, "no weight has the dtype " + std::string(name_of(dtype)), "scalar_type", "report this");
}

DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return DType::f64;
    case at::kFloat:
      return DType::f32;
    case at::kHalf:
      return DType::f16;
    case at::kBFloat16:
      return DType::bf16;
    default:
      break;
  }
  fail(ErrorKind::internal, "a parameter is not of a floating dtype", "dtype_of", "report this");
}

at::Tensor on_host(const at::Tensor& tensor) { return tensor.cpu().contiguous(); }

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  LONGLORA_INVARIANT(tensor.is_contiguous() && tensor.is_cpu());
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<size_t>(tensor.numel() * tensor.element_size())};
}

StateLanes lanes_of(const at::Tensor& tensor, uint64_t first_word) {
  if (!tensor.is_cpu() && first_word == 0 && tensor.is_contiguous() && tensor.nbytes() % 4 == 0)
    return device_state_lanes({tensor}).front();
  const at::Tensor flat = on_host(tensor);
  const std::span<const std::byte> bytes = bytes_of(flat);
  const auto* words = reinterpret_cast<const uint32_t*>(bytes.data());
  const int64_t num_words = static_cast<int64_t>(bytes.size() / 4);
  StateLanes total;
  std::mutex mutex;
  at::parallel_for(0, num_words, kWordsPerTask, [&](int64_t begin, int64_t end) {
    StateLanes part;
    part.add({words + begin, static_cast<size_t>(end - begin)}, first_word + static_cast<uint64_t>(begin));
    const std::lock_guard lock(mutex);
    total += part;  // sums are order-free
  });
  if (bytes.size() % 4 != 0) {
    uint32_t last = 0;
    std::memcpy(&last, words + num_words, bytes.size() % 4);
    total.add({&last, 1}, first_word + static_cast<uint64_t>(num_words));
  }
  return total;
}

std::vector<StateLanes> lanes_of(const std::vector<at::Tensor>& tensors) {
  if (!tensors.empty() && !tensors.front().is_cpu()) return device_state_lanes(tensors);
  std::vector<StateLanes> lanes;
  for (const at::Tensor& tensor : tensors) lanes.push_back(lanes_of(tensor));
  return lanes;
}

std::optional<int64_t> first_non_finite(const at::Tensor& tensor) {
  constexpr int64_t kPiece = int64_t{1} << 20;  // an embedding can be a large part of the memory: no second one beside it
  const at::Tensor flat = on_host(tensor).view({-1});
  for (int64_t begin = 0; begin < flat.numel(); begin += kPiece) {
    const at::Tensor finite = at::isfinite(flat.narrow(0, begin, std::min(kPiece, flat.numel() - begin)));
    const auto flags = bytes_of(finite);
    const auto first = std::find(flags.begin(), flags.end(), std::byte{0});
    if (first != flags.end()) return begin + (first - flags.begin());
  }
  return std::nullopt;
}

void refresh_weight(Parameter& parameter) {
  if (parameter.weight.data_ptr() != parameter.master.data_ptr()) parameter.weight.copy_(parameter.master);
}

}  // namespace longlora
