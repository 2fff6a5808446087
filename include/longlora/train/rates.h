#pragma once
// Rates of this machine by the program's own operators: what `doctor --rates` writes and `plan --rates` reads.
#include <string>

#include "longlora/plan/rates.h"
#include "longlora/train/device.h"
#include "longlora/train/environment.h"

namespace longlora {

struct MeasuredRates {
  Rates rates;
  std::string device, date;
  ComputeType compute = ComputeType::fp32;
  int threads = 0;
};

/// Products of a layer's shapes, s2 attention forward and backward, norm and SwiGLU passes, copies between host and device (on the CPU
/// within its memory): the best of several each, a few seconds in all. Takes 3 GiB on a GPU, 0.3 GiB on the CPU.
MeasuredRates measure_rates(const ComputeDevice&, ComputeType);
/// FLOP/s of one large product in the compute type, the best of twenty after a warm-up (about 0.1 s): the peak of MFU and HFU; 0 when
/// unknown. Takes 256 MiB on a GPU in bf16, 4.5 MiB on the CPU in fp32.
double measure_product_rate(ComputeType, const at::Device&);
/// The file of `plan --rates`, indented.
std::string rates_json(const MeasuredRates&);

struct PreparedRun;
struct PlanReport;

/// Default rates with the product rate that a run measured at its start, attention in proportion. The peak, as in metrics.jsonl, is the
/// one printed for the card in bf16, or else that rate. 0: the defaults.
Rates rates_of_run(const ComputeDevice&, ComputeType, double product_rate);
/// The plan of a run with its predicted time at these rates.
PlanReport report_of(const PreparedRun&, const Rates&);

}  // namespace longlora
