#pragma once
// Token embedding on a GPU: gather forward, deterministic sum backward. CPU: longlora/ops/embedding.h.
//
// Backward needs to know where every token stands. The host sorts the batch once (`sort_tokens`, no device sort, no atomics) and the
// kernel adds each token's rows in ascending position: the bits of a sequential sum.
// Rows    any row stride >= width, any alignment of the element; 16-byte accesses when bases, strides and width allow it
// Cost    forward one read and one write of x; backward one read of d_x and a read and a write of the touched rows in fp32
// Errors  a Launch that names the argument; nothing is enqueued then. Ids lie in [0, vocabulary): the caller has checked that
#include <cstdint>
#include <span>
#include <vector>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

/// x[n] = weight[ids[n]]; weight [vocabulary, width] without gaps, ids int32 [rows]
Launch embedding_forward(ElementType, int64_t rows, int64_t width, const void* weight, const int32_t* ids, Rows x, Stream);

/// The positions of unique_ids[i] are positions[offsets[i] .. offsets[i+1]), ascending; unique_ids ascending. On the host; the caller
/// copies the three arrays to the device.
struct TokenRows {
  std::vector<int32_t> unique_ids, offsets, positions;
};
/// Negative ids are left out. O(n log n).
TokenRows sort_tokens(std::span<const int32_t> ids);

/// d_weight[unique_ids[i]] += d_x[positions[offsets[i]]] + ..., added one after another to the fp32 row; d_weight [vocabulary, width]
/// without gaps; the three arrays are TokenRows on the device. num_unique 0 does nothing.
Launch embedding_backward(ElementType, int64_t num_unique, int64_t width, const int32_t* unique_ids, const int32_t* offsets,
                          const int32_t* positions, ConstRows d_x, float* d_weight, Stream);

}  // namespace longlora::kernels
