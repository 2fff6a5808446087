#include "s2_attention/variants.h"

namespace longlora::kernels {
template <>
Launch Sm80<device::fp16>::forward(ForwardParams params, bool aligned, Stream stream) {
  const Pattern& a = params.pattern;
  return launch_tiles<ForwardSm80, device::fp16>(params, aligned, a.q_begin, a.q_end, int64_t{a.rows} * a.num_heads, stream);
}
}  // namespace longlora::kernels
