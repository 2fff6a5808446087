// Random starts: pure functions of (seed, tensor, element), the same on every machine and for every number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <cmath>

#include "longlora/core/philox.h"
#include "model/state.h"

namespace longlora {
namespace {

/// Elements [first, first + count) of the list whose elements [4 block, 4 block + 4) are make(words of the block).
template <class Make>
at::Tensor fill(int64_t first, int64_t count, const PhiloxStream& stream, Make make) {
  at::Tensor values = at::empty({count}, at::TensorOptions().dtype(at::kFloat));
  float* out = values.data_ptr<float>();
  const int64_t end = first + count;
  at::parallel_for(first / 4, (end + 3) / 4, 4096, [&](int64_t begin_block, int64_t end_block) {
    for (int64_t block = begin_block; block < end_block; ++block) {
      const std::array<float, 4> four = make(stream.words(static_cast<uint32_t>(block)));
      for (int64_t i = std::max(first, 4 * block); i < std::min(end, 4 * block + 4); ++i)
        out[i - first] = four[static_cast<size_t>(i - 4 * block)];
    }
  });
  return values;
}

void assign(Parameter& p, const at::Tensor& values) {
  const at::Tensor shaped = values.view(p.weight.sizes());
  if (p.master.defined()) p.master.copy_(shaped);
  p.weight.copy_(shaped);
}

at::Tensor normal_values(int64_t first, int64_t count, const PhiloxStream& stream, double deviation) {
  const float scale = static_cast<float>(deviation);
  return fill(first, count, stream, [scale](const std::array<uint32_t, 4>& w) {
    const std::array<float, 2> a = normals_from(w[0], w[1]), b = normals_from(w[2], w[3]);
    return std::array<float, 4>{scale * a[0], scale * a[1], scale * b[0], scale * b[1]};
  });
}

at::Tensor uniform_values(int64_t count, const PhiloxStream& stream, double bound) {
  const float width = static_cast<float>(2 * bound), low = static_cast<float>(-bound);
  return fill(0, count, stream, [=](const std::array<uint32_t, 4>& w) {
    return std::array<float, 4>{low + width * uniform_from(w[0]), low + width * uniform_from(w[1]), low + width * uniform_from(w[2]),
                                low + width * uniform_from(w[3])};
  });
}

}  // namespace

at::Tensor LlamaModel::initial_values(const Parameter& wanted, int64_t first, int64_t count) const {
  if (wanted.role == Role::norm) return at::ones({count}, at::TensorOptions().dtype(at::kFloat));
  uint32_t ordinal = 0;  // of base tensors: adapters do not change the base's start
  for (const Parameter& p : state_->parameters.list) {
    if (&p == &wanted) break;
    if (p.role != Role::lora) ++ordinal;
  }
  const PhiloxStream stream{.seed = state_->options.seed, .purpose = Purpose::initialise, .row = ordinal};
  return normal_values(first, count, stream, state_->config.initializer_range);
}

void LlamaModel::initialise_base() {
  for (Parameter& p : state_->parameters.list)
    if (p.role != Role::lora) assign(p, initial_values(p, p.first_element, p.weight.numel()));
}

void LlamaModel::initialise_lora() {
  uint32_t ordinal = 0;
  for (Parameter& p : state_->parameters.list) {
    if (p.role != Role::lora) continue;
    const PhiloxStream stream{.seed = state_->options.seed, .purpose = Purpose::lora_a, .row = ordinal++};
    const bool is_b = p.name.ends_with("lora_B.weight");
    // Kaiming-uniform with a = sqrt 5: bound = sqrt(6 / ((1 + 5) fan_in))
    assign(p, is_b ? at::zeros(p.weight.sizes(), at::TensorOptions().dtype(at::kFloat))
                   : uniform_values(p.weight.numel(), stream, 1.0 / std::sqrt(static_cast<double>(p.weight.size(1)))));
  }
}

}  // namespace longlora
