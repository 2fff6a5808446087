#pragma once
// Moving rows on a GPU: change of type with a factor, gather and scatter by index.
//
// Rows    any row stride >= width, any alignment of the element; 16-byte accesses when bases and strides are multiples of 16 bytes
// Cost    one read, one write: bound by memory
// Errors  a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

/// to[n, i] = round(from[n, i] * scale). from and to may be the same rows when types and strides are equal. A contiguous array is one row.
Launch cast(int64_t rows, int64_t width, ElementType from_type, ConstRows from, ElementType to_type, Rows to, float scale, Stream);

/// to[i] = from[index[i]], i < rows. index int64 on the device, the caller has checked it. from and to do not overlap.
Launch gather_rows(ElementType, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream);
/// to[index[i]] = from[i]; no index twice.
Launch scatter_rows(ElementType, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream);

}  // namespace longlora::kernels
