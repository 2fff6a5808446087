#include "device/fake_device.h"

#include <gtest/gtest.h>

#include "longlora/ops/rms_norm.h"
#include "support/tensors.h"

namespace longlora::test {
namespace {

at::Tensor there(const at::Tensor& t) { return t.to(fake::device()); }

TEST(FakeDevice, CopiesAndComputesThroughTheFallback) {
  const at::Tensor host = random_tensor({3, 5}, 1);
  const at::Tensor device = there(host);
  EXPECT_FALSE(device.is_cpu());
  EXPECT_TRUE(same_bits(device.cpu(), host));
  EXPECT_TRUE(same_bits(device.narrow(1, 1, 3).t().cpu(), host.narrow(1, 1, 3).t()));
  at::Tensor sum = device.clone();
  sum.narrow(1, 0, 2).add_(device.narrow(1, 2, 2), 0.5);
  at::Tensor expected = host.clone();
  expected.narrow(1, 0, 2).add_(host.narrow(1, 2, 2), 0.5);
  EXPECT_TRUE(same_bits(sum.cpu(), expected));
}

TEST(FakeDevice, NewMemoryIsPoison) { EXPECT_TRUE(std::isnan(at::empty({1}, at::TensorOptions().device(fake::device())).item<float>())); }

TEST(FakeDeviceDeathTest, HostCodeThatFollowsADevicePointerDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const at::Tensor device = there(random_tensor({4}, 1));
  EXPECT_DEATH(std::printf("%f", static_cast<double>(*device.const_data_ptr<float>())), "");
  EXPECT_DEATH(std::memset(device.data_ptr(), 0, 4), "");
}

TEST(FakeDevice, AKernelReadsAndWritesIt) {
  const int64_t before = fake::launches();
  const at::Tensor x = random_tensor({7, 64}, 1), w = random_tensor({64}, 2);
  at::Tensor y = at::empty_like(x), y_device = at::empty_like(there(x));
  rms_norm_forward(x, w, 1e-5, y);
  rms_norm_forward(there(x), there(w), 1e-5, y_device);
  EXPECT_GT(fake::launches(), before);
  EXPECT_LT(relative_error(doubles(y_device.cpu()), doubles(y)), 1e-6);
}

}  // namespace
}  // namespace longlora::test
