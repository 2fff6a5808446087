// Random starts: pure functions of (seed, tensor, element), the same on every machine and for every number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "longlora/core/philox.h"
#include "model/state.h"

namespace longlora {
namespace {

/// values[4 * block + i] = make(words)[i]
template <class Make>
at::Tensor fill(at::IntArrayRef sizes, const PhiloxStream& stream, Make make) {
  at::Tensor values = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
  const int64_t count = values.numel();
  float* out = values.data_ptr<float>();
  at::parallel_for(0, (count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const std::array<float, 4> four = make(stream.words(static_cast<uint32_t>(block)));
      for (int64_t i = 0; i < std::min<int64_t>(4, count - 4 * block); ++i) out[4 * block + i] = four[static_cast<size_t>(i)];
    }
  });
  return values;
}

void assign(Parameter& p, const at::Tensor& values) {
  if (p.master.defined()) p.master.copy_(values);
  p.weight.copy_(values);
}

at::Tensor normal_values(at::IntArrayRef sizes, const PhiloxStream& stream, double deviation) {
  const float scale = static_cast<float>(deviation);
  return fill(sizes, stream, [scale](const std::array<uint32_t, 4>& w) {
    const std::array<float, 2> a = normals_from(w[0], w[1]), b = normals_from(w[2], w[3]);
    return std::array<float, 4>{scale * a[0], scale * a[1], scale * b[0], scale * b[1]};
  });
}

at::Tensor uniform_values(at::IntArrayRef sizes, const PhiloxStream& stream, double bound) {
  const float width = static_cast<float>(2 * bound), low = static_cast<float>(-bound);
  return fill(sizes, stream, [=](const std::array<uint32_t, 4>& w) {
    return std::array<float, 4>{low + width * uniform_from(w[0]), low + width * uniform_from(w[1]), low + width * uniform_from(w[2]),
                                low + width * uniform_from(w[3])};
  });
}

}  // namespace

void LlamaModel::initialise_base() {
  uint32_t ordinal = 0;  // of base tensors: adapters do not change the base's start
  for (Parameter& p : state_->parameters.list) {
    if (p.role == Role::lora) continue;
    const PhiloxStream stream{.seed = state_->options.seed, .purpose = Purpose::initialise, .row = ordinal++};
    if (p.role == Role::norm) {
      p.weight.fill_(1.0);
      if (p.master.defined()) p.master.fill_(1.0);
    } else {
      assign(p, normal_values(p.weight.sizes(), stream, state_->config.initializer_range));
    }
  }
}

void LlamaModel::initialise_lora() {
  uint32_t ordinal = 0;
  for (Parameter& p : state_->parameters.list) {
    if (p.role != Role::lora) continue;
    const PhiloxStream stream{.seed = state_->options.seed, .purpose = Purpose::lora_a, .row = ordinal++};
    const bool is_b = p.name.ends_with("lora_B.weight");
    // Kaiming-uniform with a = sqrt 5: bound = sqrt(6 / ((1 + 5) fan_in))
    assign(p, is_b ? at::zeros(p.weight.sizes(), at::TensorOptions().dtype(at::kFloat))
                   : uniform_values(p.weight.sizes(), stream, 1.0 / std::sqrt(static_cast<double>(p.weight.size(1)))));
  }
}

}  // namespace longlora
