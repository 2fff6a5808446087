#pragma once
// The definition, one thread an output. Arguments as in longlora/kernels/cast.h, unchecked.
#include "longlora/kernels/cast.h"

namespace longlora::kernels::naive {

Launch cast(int64_t rows, int64_t width, ElementType from_type, ConstRows from, ElementType to_type, Rows to, float scale, Stream);
Launch gather_rows(ElementType, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream);
Launch scatter_rows(ElementType, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream);

}  // namespace longlora::kernels::naive
