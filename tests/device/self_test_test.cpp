#include "longlora/train/self_test.h"

#include <gtest/gtest.h>

#include "device/fake_device.h"

namespace longlora {
namespace {

TEST(KernelSelfTest, EveryKernelAgreesWithTheCpu) {
  const std::vector<KernelTest> tests = kernel_self_tests(fake::device());
  EXPECT_EQ(tests.size(), 16u);
  for (const KernelTest& test : tests) EXPECT_TRUE(test.passed) << test.name << ": " << test.largest_error << " > " << test.tolerance;
}

}  // namespace
}  // namespace longlora
