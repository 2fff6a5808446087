#pragma once
// A check of the installed program on this machine: attention against a loop over the definition, and the kernels of a device against the
// CPU's code.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace longlora {

struct SelfTest {
  bool passed = false;
  double largest_error = 0, tolerance = 0;
  double seconds = 0;
};
/// S2 attention forward, fp32, GQA, ragged length, against fp64 loops that share no code with it.
SelfTest attention_self_test();

struct KernelTest {
  std::string name;  // "attention bf16"
  bool passed = false;
  double largest_error = 0, tolerance = 0;  // relative to the largest element of the result
};
/// Every operation with a kernel, forward and backward, fp32 and bf16, small and ragged, on `device` and on the CPU with the same inputs.
/// (The tests prove the CPU's operations against fp64 definitions.)
std::vector<KernelTest> kernel_self_tests(const at::Device& device);

}  // namespace longlora
