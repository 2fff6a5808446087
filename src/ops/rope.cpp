#include "longlora/ops/rope.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "longlora/ops/memory_counter.h"
#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {
namespace {

using namespace vec;

template <class T>
void rotate(const T* x, T* y, const float* cosines, const float* sines, float sine_sign, int64_t half) {
  for_lanes(half, [&](int64_t i, auto lanes) {
    const F8 c = load(cosines + i, lanes), s = load(sines + i, lanes) * sine_sign;
    const F8 a = load(x + i, lanes), b = load(x + half + i, lanes);
    store(y + i, a * c - b * s, lanes);
    store(y + half + i, b * c + a * s, lanes);
  });
}

void rotate_all(const RopeTable& table, const IntList& list, int64_t first_row, const at::Tensor& x_NHD, at::Tensor& y_NHD,
                float sine_sign) {
  const std::span<const int32_t> positions = list.host();
  const int64_t rows = x_NHD.size(0), heads = x_NHD.size(1), half = table.half();
  LONGLORA_INVARIANT(x_NHD.size(2) == 2 * half && first_row + rows <= static_cast<int64_t>(positions.size()));
  if constexpr (kWithKernels) {
    const auto rotation = sine_sign > 0 ? device::Rotation::forward : device::Rotation::backward;
    if (!x_NHD.is_cpu()) return device::rotate(table, list, first_row, x_NHD, y_NHD, rotation);
  }
  with_element_type(x_NHD, [&]<class T>(T) {
    const T* x = x_NHD.const_data_ptr<T>();
    T* y = y_NHD.data_ptr<T>();
    at::parallel_for(0, rows, row_grain(heads * 2 * half), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t position = positions[static_cast<size_t>(first_row + n)];
        for (int64_t h = 0; h < heads; ++h)
          rotate(x + n * x_NHD.stride(0) + h * x_NHD.stride(1), y + n * y_NHD.stride(0) + h * y_NHD.stride(1), table.cosines(position),
                 table.sines(position), sine_sign, half);
      }
    });
  });
}

}  // namespace

RopeTable::RopeTable(std::vector<float> frequencies, double attention_factor)
    : frequencies_(std::move(frequencies)), attention_factor_(attention_factor) {}

void RopeTable::reserve(int64_t count) {
  const int64_t have = half() == 0 ? count : table_.defined() ? table_.size(0) : 0;
  if (count <= have) return;
  const MemoryTag tag(Component::tables);
  at::Tensor grown = at::empty({count, 2 * half()}, at::TensorOptions().dtype(at::kFloat));
  if (have > 0) grown.narrow(0, 0, have).copy_(table_);
  float* const values = grown.mutable_data_ptr<float>();
  at::parallel_for(have, count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t position = begin; position < end; ++position) {
      float* out = values + position * 2 * half();
      for (int64_t i = 0; i < half(); ++i) {
        const float angle = static_cast<float>(position) * frequencies_[static_cast<size_t>(i)];  // fp32 product, as transformers does
        out[i] = static_cast<float>(std::cos(static_cast<double>(angle)) * attention_factor_);
        out[half() + i] = static_cast<float>(std::sin(static_cast<double>(angle)) * attention_factor_);
      }
    }
  });
  table_ = std::move(grown);
  values_ = values;
}

at::Tensor RopeTable::on(const at::Device& device) const {
  if (uploaded_.defined() && uploaded_.numel() == table_.numel() && uploaded_.device() == device) return uploaded_;
  uploaded_ = at::empty(table_.sizes(), table_.options().device(device));
  uploaded_.copy_(table_);
  return uploaded_;
}

void rope_forward(const RopeTable& table, const IntList& positions, int64_t first_row, at::Tensor& x_NHD) {
  rotate_all(table, positions, first_row, x_NHD, x_NHD, 1.0f);
}

void rope_backward(const RopeTable& table, const IntList& positions, int64_t first_row, const at::Tensor& d_y_NHD, at::Tensor& d_x_NHD) {
  rotate_all(table, positions, first_row, d_y_NHD, d_x_NHD, -1.0f);
}

std::vector<int32_t> token_positions(int64_t rows, int64_t tokens, const std::vector<std::vector<int64_t>>& document_starts) {
  std::vector<int32_t> positions(static_cast<size_t>(rows * tokens));
  for (int64_t row = 0; row < rows; ++row) {
    int32_t* out = positions.data() + row * tokens;
    for (int64_t t = 0; t < tokens; ++t) out[t] = static_cast<int32_t>(t);
    if (document_starts.empty()) continue;
    const std::vector<int64_t>& starts = document_starts[static_cast<size_t>(row)];
    for (size_t d = 0; d < starts.size(); ++d) {
      const int64_t end = d + 1 < starts.size() ? starts[d + 1] : tokens;
      for (int64_t t = starts[d]; t < end; ++t) out[t] = static_cast<int32_t>(t - starts[d]);
    }
  }
  return positions;
}

}  // namespace longlora
