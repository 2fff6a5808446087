#include "checkpoint/row_stream.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "checkpoint/tensor_tools.h"

namespace longlora {
namespace {

constexpr int64_t kBlockBytes = int64_t{8} << 20;

}  // namespace

RowShape row_shape(const Shape& shape) {
  RowShape result{.rows = shape.empty() ? 1 : shape[0]};
  for (size_t i = 1; i < shape.size(); ++i) result.width *= shape[i];
  return result;
}

at::Tensor read_rows(const WeightSource& source, const TensorInfo& info, int64_t first, int64_t rows) {
  const int64_t width = row_shape(info.shape).width;
  const at::Tensor block = at::empty({rows, width}, at::TensorOptions().dtype(scalar_type(info.dtype)));
  const uint64_t row_bytes = static_cast<uint64_t>(width) * size_of(info.dtype);
  source.read(info, static_cast<uint64_t>(first) * row_bytes, bytes_of(block));
  return block;
}

int64_t block_rows(const RowShape& shape, size_t element_bytes) {
  const int64_t row_bytes = std::max<int64_t>(1, shape.width * static_cast<int64_t>(element_bytes));
  return std::clamp<int64_t>(kBlockBytes / row_bytes, 1, std::max<int64_t>(1, shape.rows));
}

void for_each_block(const WeightSource& source, const TensorInfo& info, const std::function<void(int64_t, const at::Tensor&)>& use) {
  const RowShape shape = row_shape(info.shape);
  const int64_t step = block_rows(shape, size_of(info.dtype));
  for (int64_t first = 0; first < shape.rows; first += step) {
    use(first, read_rows(source, info, first, std::min(step, shape.rows - first)));
  }
}

void for_each_piece(const WeightSource& source, const TensorInfo& info, int64_t first, int64_t count, bool by_rows,
                    const std::function<void(int64_t, const at::Tensor&)>& use) {
  TensorInfo as_rows = info;
  if (!by_rows) as_rows.shape = {row_shape(info.shape).rows * row_shape(info.shape).width, 1};
  const RowShape shape = row_shape(as_rows.shape);
  const int64_t step = block_rows(shape, size_of(info.dtype)), end = first + count;
  for (int64_t at = first; at < end;) {
    const int64_t row = at / shape.width, rows = std::min(step, (end + shape.width - 1) / shape.width - row);
    const int64_t stop = std::min(end, (row + rows) * shape.width);
    use(at, read_rows(source, as_rows, row, rows).view({-1}).narrow(0, at - row * shape.width, stop - at));
    at = stop;
  }
}

}  // namespace longlora
