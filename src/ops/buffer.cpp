#include "longlora/ops/buffer.h"

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include "longlora/core/error.h"

namespace longlora {

at::Tensor Buffer::view(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  const int64_t bytes = c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(type));
  if (is_planned_ && bytes == 0) return at::empty(sizes, options);
  LONGLORA_INVARIANT(!is_planned_ || bytes <= this->bytes());
  if (bytes > this->bytes() || (flat_.defined() && flat_.device() != options.device())) {
    flat_ = at::Tensor();  // free before allocating: the two never coexist
    flat_ = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(options.device()));
  }
  return flat_.narrow(0, 0, bytes).view(type).view(sizes);
}

}  // namespace longlora
