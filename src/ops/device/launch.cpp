#include "ops/device/launch.h"

#include <string>

#include "longlora/core/error.h"

namespace longlora::device {

kernels::ElementType element_type(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return kernels::ElementType::fp32;
    case at::kBFloat16:
      return kernels::ElementType::bf16;
    case at::kHalf:
      return kernels::ElementType::fp16;
    default:
      fail(ErrorKind::internal, std::string("element type ") + c10::toString(t.scalar_type()) + ", expected fp32, bf16 or fp16", "ops",
           "report this with the command and its output");
  }
}

void require(kernels::Launch launch, const char* operation) {
  if (launch.ok()) return;
  fail(ErrorKind::internal, std::string("the kernel refuses ") + launch.argument + ": " + launch.problem, operation,
       "use device: cpu, and report this with the command and its output");
}

}  // namespace longlora::device
