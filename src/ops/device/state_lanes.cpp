#include "longlora/kernels/state_lanes.h"

#include <ATen/ops/empty.h>

#include "longlora/core/error.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

std::vector<StateLanes> state_lanes(const std::vector<at::Tensor>& tensors, const std::vector<uint64_t>& first_words) {
  const auto words_of = [](const at::Tensor& t) { return t.numel() * static_cast<int64_t>(t.element_size()) / 4; };
  const auto shares_of = [&](const at::Tensor& t) { return t.numel() == 0 ? 0 : kernels::lane_shares(words_of(t)); };
  int64_t num_shares = 0;
  for (const at::Tensor& t : tensors) num_shares += shares_of(t);
  const at::Tensor shares = at::empty({num_shares, 2}, tensors.front().options().dtype(at::kLong));
  auto* next = reinterpret_cast<uint64_t*>(shares.data_ptr<int64_t>());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& t = tensors[i];
    if (t.numel() == 0) continue;
    LONGLORA_INVARIANT(t.is_contiguous() && t.numel() * static_cast<int64_t>(t.element_size()) % 4 == 0);
    require(kernels::state_lanes(static_cast<const uint32_t*>(t.data_ptr()), words_of(t), first_words[i], next, stream_of(t)),
            "state_lanes");
    next += 2 * shares_of(t);
  }
  const at::Tensor read = shares.cpu();  // the one wait
  const int64_t* share = read.const_data_ptr<int64_t>();
  std::vector<StateLanes> lanes(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t n = shares_of(tensors[i]); n > 0; --n)
      for (uint64_t& lane : lanes[i].lane) lane += static_cast<uint64_t>(*share++);
  return lanes;
}

}  // namespace longlora::device
