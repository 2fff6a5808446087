#include "ops/dispatch.h"

namespace longlora {

void require_host(const at::Tensor& t, const char* operation) {
  LONGLORA_CHECK(t.is_cpu(), config, "a tensor is on " + t.device().str() + ", and this build of the program has no GPU kernels", operation,
                 "use device: cpu, or build with scripts/build.sh cuda");
}

void require_kernels(const at::Tensor& t, const char* operation) {
  LONGLORA_INVARIANT(!t.is_cpu());
  if constexpr (!kWithKernels) require_host(t, operation);
}

}  // namespace longlora
