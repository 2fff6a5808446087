#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "longlora/core/clock.h"
#include "longlora/core/json.h"
#include "longlora/kernels/s2_layout.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/attention.h"
#include "longlora/ops/rms_norm.h"
#include "longlora/ops/swiglu.h"
#include "longlora/train/rates.h"

namespace longlora {
namespace {

/// Of a layer: as large as a machine's models usually are, so that nothing stays in a cache that would not stay there in a run.
struct Sizes {
  int64_t rows, hidden, ffn, tokens, heads, copy_bytes;
};
constexpr int64_t kHeadSize = 128;
constexpr Sizes kGpu{4096, 4096, 11008, 32768, 32, int64_t{256} << 20};
constexpr Sizes kCpu{1024, 1024, 2816, 2048, 4, int64_t{64} << 20};

struct AtLeast {
  int runs;
  double seconds;
};

/// Least time of one of several runs, `before` outside of it.
double best_seconds(
    bool gpu, AtLeast enough, const std::function<void()>& work, const std::function<void()>& before = [] {}) {
  const auto wait = [&] {
    if (gpu) accelerator::synchronize();
  };
  double best = 1e9, total = 0;
  for (int run = 0; run <= enough.runs || total < enough.seconds; ++run) {
    before();
    wait();
    const double started = monotonic_seconds();
    work();
    wait();
    const double seconds = monotonic_seconds() - started;
    if (run == 0) continue;  // libraries choose and allocate
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

class Bench {
 public:
  Bench(const ComputeDevice& device, ComputeType compute)
      : sizes_(device.is_gpu() ? kGpu : kCpu),
        gpu_(device.is_gpu()),
        options_(at::TensorOptions().dtype(compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat).device(device.where)) {}

  double products() const {
    const std::pair<int64_t, int64_t> shapes[] = {
        {sizes_.hidden, 3 * sizes_.hidden}, {sizes_.hidden, sizes_.hidden}, {sizes_.hidden, 2 * sizes_.ffn}, {sizes_.ffn, sizes_.hidden}};
    double flops = 0, seconds = 0;
    for (const auto& [in, out] : shapes) {
      const at::Tensor x = at::randn({sizes_.rows, in}, options_), weight_OI = at::randn({out, in}, options_);
      at::Tensor y = at::empty({sizes_.rows, out}, options_);
      seconds += best_seconds([&] { at::mm_out(y, x, weight_OI.t()); });
      flops += 2.0 * static_cast<double>(sizes_.rows) * static_cast<double>(in) * static_cast<double>(out);
    }
    return flops / seconds;
  }

  /// dQ over q, as a layer does it: seven products backward.
  double attention() const {
    const int64_t T = sizes_.tokens, H = sizes_.heads, group = T / 4;
    const at::Tensor start = at::randn({1, T, H, kHeadSize}, options_);
    const at::Tensor k = at::randn({1, T, H, kHeadSize}, options_), v = at::randn({1, T, H, kHeadSize}, options_);
    at::Tensor q = at::empty_like(start), o = at::empty_like(start), d_k = at::empty_like(k), d_v = at::empty_like(v);
    const at::TensorOptions wide = options_.dtype(at::kFloat);
    at::Tensor lse = at::empty({1, H, T}, wide), workspace = at::empty({attention_workspace_elements(1, T, H)}, wide);
    const AttentionLayout layout{.kind = AttentionKind::s2, .tokens = T, .group = group, .num_plain = H / 2};
    const double seconds = best_seconds(
        [&] {
          s2_attention_forward(layout, q, k, v, o, lse);
          s2_attention_backward(layout, q, k, v, o, lse, start, q, d_k, d_v, workspace);
        },
        [&] { q.copy_(start); });
    const int64_t pairs = H / 2 * (allowed_pairs(T, group, Shift::none) + allowed_pairs(T, group, Shift::half_group));
    return (4 + 14) * static_cast<double>(kHeadSize) * static_cast<double>(pairs) / seconds;
  }

  double elementwise() const {
    const int64_t rows = sizes_.rows;
    const at::Tensor x = at::randn({rows, sizes_.hidden}, options_), weight = at::ones({sizes_.hidden}, options_);
    at::Tensor y = at::empty_like(x), gate_up = at::randn({rows, 2 * sizes_.ffn}, options_), m = at::empty({rows, sizes_.ffn}, options_);
    const at::Tensor start = gate_up.clone();
    const double seconds = best_seconds(
        [&] {
          rms_norm_forward(x, weight, 1e-6, y);
          swiglu_forward(gate_up, m);
          swiglu_backward(gate_up, m);
        },
        [&] { gate_up.copy_(start); });
    const double elements = static_cast<double>(rows) * static_cast<double>(2 * sizes_.hidden + (3 + 5) * sizes_.ffn);
    return elements * static_cast<double>(options_.dtype().itemsize()) / seconds;
  }

  /// The slower direction of the link; on the CPU bytes copied, each read and written.
  double link() const {
    const at::TensorOptions bytes = options_.dtype(at::kByte);
    at::Tensor host = gpu_ ? accelerator::staging({sizes_.copy_bytes}, at::kByte) : at::empty({sizes_.copy_bytes}, bytes);
    at::Tensor there = at::empty({sizes_.copy_bytes}, bytes);
    host.fill_(1);
    const double out = best_seconds([&] { there.copy_(host, true); }), back = best_seconds([&] { host.copy_(there, true); });
    return static_cast<double>(sizes_.copy_bytes) / std::max(out, back);
  }

 private:
  double best_seconds(
      const std::function<void()>& work, const std::function<void()>& before = [] {}) const {
    return longlora::best_seconds(gpu_, {.runs = 5, .seconds = 0.35}, work, before);
  }

  Sizes sizes_;
  bool gpu_;
  at::TensorOptions options_;
};

}  // namespace

double measure_product_rate(ComputeType compute, const at::Device& device) {
  if (!device.is_cpu() && !device.is_cuda()) return 0;  // a device of tests: its speed says nothing
  const int64_t size = device.is_cuda() ? 8192 : 768;
  const at::ScalarType type = compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor a = at::full({size, size}, 1.0, at::TensorOptions().dtype(type).device(device));
  at::Tensor c = at::empty_like(a);
  // twenty runs, a tenth of a second: long enough to see the machine undisturbed once
  const double seconds = best_seconds(device.is_cuda(), {.runs = 20, .seconds = 0}, [&] { at::mm_out(c, a, a); });
  const auto edge = static_cast<double>(size);
  return 2.0 * edge * edge * edge / seconds;
}

MeasuredRates measure_rates(const ComputeDevice& device, ComputeType compute) {
  const Bench bench(device, compute);
  MeasuredRates measured{.device = device.is_gpu() ? accelerator::devices().at(0).name : cpu_info().model,
                         .date = wall_clock_iso8601().substr(0, 10),
                         .compute = compute,
                         .threads = compute_threads()};
  measured.rates = {.products = bench.products(),
                    .attention = bench.attention(),
                    .elementwise = bench.elementwise(),
                    .link = bench.link(),
                    .peak = device.is_gpu() && compute == ComputeType::bf16 ? printed_peak(measured.device) : 0,
                    .device = device.is_gpu() ? DeviceKind::cuda : DeviceKind::cpu};
  if (measured.rates.peak == 0)  // on a busy machine either of them may have been disturbed
    measured.rates.peak = std::max(measured.rates.products, measure_product_rate(compute, device.where));
  measured.rates.source = "measured now";
  return measured;
}

std::string rates_json(const MeasuredRates& m) {
  const Rates& r = m.rates;
  return fmt::format(
      "{{\n  \"longlora_rates\": 1,\n  \"kind\": \"{}\",\n  \"device\": {},\n  \"dtype\": {},\n  \"threads\": {},\n  \"date\": {},\n  "
      "\"products\": {:.4g},\n  "
      "\"attention\": {:.4g},\n  \"elementwise\": {:.4g},\n  \"link\": {:.4g},\n  \"peers\": {},\n  \"peak\": {:.4g}\n}}\n",
      r.device == DeviceKind::cuda ? "cuda" : "cpu", json_quote(m.device), json_quote(name_of(m.compute)), m.threads, json_quote(m.date),
      r.products, r.attention, r.elementwise, r.link, r.peers > 0 ? fmt::format("{:.4g}", r.peers) : "null", r.peak);
}

}  // namespace longlora
