// What a run's MFU and HFU are shares of.
#include <gtest/gtest.h>

#include "longlora/train/rates.h"

namespace longlora {
namespace {

ComputeDevice gpu(const std::string& name) { return {.where = at::kCUDA, .name = name + ", compute capability 9.0, 132 multiprocessors"}; }

TEST(RatesOfRun, SharesAreOfThePrintedPeakWhereThereIsOne) {
  const Rates known = rates_of_run(gpu("NVIDIA H100 80GB HBM3"), ComputeType::bf16, 700e12);
  EXPECT_EQ(known.products, 700e12);
  EXPECT_EQ(peak_text(known), "989 TFLOP/s, the card's");
  EXPECT_EQ(peak_text(rates_of_run(gpu("NVIDIA H100 80GB HBM3"), ComputeType::fp32, 50e12)), "50 TFLOP/s, measured");
  EXPECT_EQ(peak_text(rates_of_run(gpu("A card"), ComputeType::bf16, 200e12)), "200 TFLOP/s, measured");
  EXPECT_EQ(peak_text(rates_of_run({}, ComputeType::fp32, 133e9)), "133 GFLOP/s, measured");
  EXPECT_EQ(peak_text(rates_of_run({}, ComputeType::fp32, 0)), "100 GFLOP/s, assumed");
}

TEST(RatesOfRun, AttentionFollowsTheMeasuredProducts) {
  const Rates assumed = default_rates(DeviceKind::cuda), measured = rates_of_run(gpu("A card"), ComputeType::bf16, assumed.products / 2);
  EXPECT_DOUBLE_EQ(measured.attention, assumed.attention / 2);
  EXPECT_EQ(measured.link, assumed.link);
}

TEST(RatesFile, IsReadBackAsWhatWasMeasured) {
  const MeasuredRates measured{
      .rates = {.products = 700e12, .attention = 400e12, .elementwise = 2e12, .link = 50e9, .peak = 989.4e12, .device = DeviceKind::cuda},
      .device = "NVIDIA H100 80GB HBM3",
      .date = "2026-01-02",
      .compute = ComputeType::bf16,
      .threads = 1};
  const Rates read = parse_rates(rates_json(measured), "rates.json");
  EXPECT_EQ(read.device, DeviceKind::cuda);
  EXPECT_EQ(read.peak_kind, PeakKind::printed);
  EXPECT_EQ(read.products, 700e12);
}

}  // namespace
}  // namespace longlora
