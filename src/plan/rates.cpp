#include "longlora/plan/rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr uint64_t kMaxRatesBytes = uint64_t{16} << 20;

// Shares of a GPU's peak: a product at the shapes of a layer; attention by mma.sync, deterministic, such that 7B at 100k tokens reaches an
// HFU of one half, the planning figure for the kernels; of the peak of memory, what passes over long rows reach.
constexpr double kProductShare = 0.75, kAttentionShare = 0.45, kMemoryShare = 0.7;
constexpr double kH100Peak = 989.4e12, kH100PeakFp32 = 66.9e12, kH100Memory = 3.35e12;

double number_of(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = object.find(key);
  const std::string where = std::string(source) + ": " + std::string(key);
  LONGLORA_CHECK(value != nullptr, data, "the rate is missing", where, "measure it with longlora-train doctor --rates FILE");
  const double number = value->number().value_or(std::nan(""));
  LONGLORA_CHECK(std::isfinite(number) && number > 0, data, "a rate is a number above 0, got " + std::string(value->type_name()), where,
                 "measure it with longlora-train doctor --rates FILE");
  return number;
}

std::string text_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value != nullptr && value->string() != nullptr ? escape(*value->string()) : "";
}

DeviceKind kind_of(const JsonValue& file, std::string_view source) {
  const std::string kind = text_of(file, "kind");
  LONGLORA_CHECK(kind == "cuda" || kind == "cpu", data, "the kind of device is neither cuda nor cpu", std::string(source) + ": kind",
                 "measure again with longlora-train doctor --rates FILE");
  return kind == "cuda" ? DeviceKind::cuda : DeviceKind::cpu;
}

Rates measured_rates(const JsonValue& file, std::string_view source) {
  const JsonValue* version = file.find("longlora_rates");
  LONGLORA_CHECK(version->unsigned_integer() == 1u, data, "rates of another version of this program",
                 std::string(source) + ": longlora_rates", "measure again with longlora-train doctor --rates FILE");
  Rates rates{.products = number_of(file, "products", source),
              .attention = number_of(file, "attention", source),
              .elementwise = number_of(file, "elementwise", source),
              .link = number_of(file, "link", source),
              .peak = number_of(file, "peak", source),
              .peak_kind = PeakKind::measured,
              .device = kind_of(file, source)};
  if (rates.device == DeviceKind::cuda && rates.peak == printed_peak(text_of(file, "device"))) rates.peak_kind = PeakKind::printed;
  if (const JsonValue* peers = file.find("peers"); peers != nullptr && !peers->is_null()) rates.peers = number_of(file, "peers", source);
  rates.source = fmt::format("measured on {}, {}, {} ({})", text_of(file, "device"), text_of(file, "dtype"), text_of(file, "date"), source);
  return rates;
}

/// Product and copy rate of scripts/gpu_check.sh; attention and link are not in it.
Rates benchmark_rates(const JsonValue& file, std::string_view source) {
  const JsonValue* gemm = file.find("gemm_tflops");
  LONGLORA_CHECK(gemm != nullptr && gemm->object() != nullptr, data, "neither rates of doctor nor a machine.json of gpu_check",
                 std::string(source), "write one with longlora-train doctor --rates FILE");
  const std::string device = text_of(file, "device");
  const double products = 1e12 * number_of(*gemm, "before", std::string(source) + ": gemm_tflops");
  Rates rates = default_rates(DeviceKind::cuda);
  rates.attention = products * kAttentionShare / kProductShare;
  rates.products = products;
  rates.elementwise = 1e9 * number_of(file, "copy_gbs", source);
  rates.peak = printed_peak(device) > 0 ? printed_peak(device) : products;
  rates.peak_kind = printed_peak(device) > 0 ? PeakKind::printed : PeakKind::measured;
  rates.source =
      fmt::format("products and memory measured on {}, {} ({}); attention and link assumed", device, text_of(file, "date"), source);
  return rates;
}

}  // namespace

Rates default_rates(DeviceKind kind, ComputeType compute) {
  if (kind == DeviceKind::cuda) {
    const bool wide = compute == ComputeType::fp32;
    const double peak = wide ? kH100PeakFp32 : kH100Peak;
    return {.products = kProductShare * peak,
            .attention = kAttentionShare * peak,
            .elementwise = kMemoryShare * kH100Memory,
            .link = 50e9,
            .peers = 300e9,
            .peak = peak,
            .device = kind,
            .source = wide ? "assumed: an H100 SXM in fp32" : "assumed: an H100 SXM in bf16"};
  }
  return {.products = 100e9,
          .attention = 60e9,
          .elementwise = 10e9,
          .link = 5e9,
          .peak = 100e9,
          .device = DeviceKind::cpu,
          .source = "assumed: two AVX2 cores in fp32"};
}

double printed_peak(std::string_view device_name) {
  struct Row {
    std::string_view name;  // a whole word, or several, of the device's name
    double flops;
  };
  // Dense, without sparsity, from the maker's data sheets of A100, H100 (SXM, PCIe, NVL), H200, L40S and of the HGX B200 board, and from
  // the Ada architecture's white paper for the RTX 4090. What only begins like one of them is another chip.
  constexpr Row rows[] = {{"H100 PCIe", 756e12}, {"H100 NVL", 835e12}, {"H100", 989.4e12}, {"H200", 989.4e12},     {"A100", 312e12},
                          {"L40S", 362e12},      {"B200", 2250e12},    {"RTX 4090 D", 0},  {"RTX 4090 Laptop", 0}, {"RTX 4090", 165.2e12}};
  const auto holds = [&](std::string_view name) {
    const size_t at = device_name.find(name), end = at + name.size();
    if (at == device_name.npos || (at > 0 && device_name[at - 1] != ' ')) return false;
    return end == device_name.size() || !std::isalnum(static_cast<unsigned char>(device_name[end]));
  };
  const Row* found = std::ranges::find_if(rows, holds, &Row::name);
  return found == std::end(rows) ? 0 : found->flops;
}

std::string peak_text(const Rates& r) {
  const char* who = r.peak_kind == PeakKind::printed ? "the card's" : r.peak_kind == PeakKind::measured ? "measured" : "assumed";
  return r.peak >= 1e12 ? fmt::format("{:.0f} TFLOP/s, {}", r.peak / 1e12, who) : fmt::format("{:.0f} GFLOP/s, {}", r.peak / 1e9, who);
}

Rates parse_rates(std::string_view json, std::string_view source) {
  const JsonValue file = parse_json(json, source, {.max_bytes = kMaxRatesBytes});
  return file.find("longlora_rates") != nullptr ? measured_rates(file, source) : benchmark_rates(file, source);
}

Rates read_rates(const std::filesystem::path& path) { return parse_rates(read_file(path, kMaxRatesBytes), path.string()); }

}  // namespace longlora
