#pragma once
// A tensor of a weight source in blocks of whole rows: memory stays bounded whatever the tensor's size.
#include <ATen/core/Tensor.h>

#include <functional>

#include "longlora/formats/weights.h"

namespace longlora {

/// Rows of a tensor: the first dimension; a vector counts as rows of one element.
struct RowShape {
  int64_t rows = 0, width = 1;
};
RowShape row_shape(const Shape&);

/// Rows [first, first + rows) in the stored dtype as [rows, width].
at::Tensor read_rows(const WeightSource&, const TensorInfo&, int64_t first, int64_t rows);

/// How many rows of `width` elements of `element_bytes` make a block of about 8 MiB (at least 1).
int64_t block_rows(const RowShape&, size_t element_bytes);

/// Calls `use(element, block)` for elements [first, first + count) of the flattened tensor in flat blocks of about 8 MiB, in order.
/// `by_rows`: the source reads whole rows only (GGUF), and the two rows at the ends are read beyond the range.
void for_each_piece(const WeightSource&, const TensorInfo&, int64_t first, int64_t count, bool by_rows,
                    const std::function<void(int64_t, const at::Tensor&)>& use);

/// Calls `use(first_row, block)` for every block in order.
void for_each_block(const WeightSource&, const TensorInfo&, const std::function<void(int64_t, const at::Tensor&)>& use);

}  // namespace longlora
