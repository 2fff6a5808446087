// longlora-train doctor: what this machine and this build are, and whether they work.
#include <fmt/format.h>
#include <sys/resource.h>

#include "apps/commands.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/attention.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/train/environment.h"
#include "longlora/train/rates.h"
#include "longlora/train/self_test.h"
#include "longlora/train/version.h"

namespace longlora::apps {
namespace {

struct Findings {
  double product_gflops = 0;
  int64_t host_budget = 0;
  uint64_t free_disk = 0, open_files = 0;
  SelfTest self_test;
  std::string no_gpu;  // why none can be used; empty: one can
  std::vector<accelerator::DeviceInfo> gpus;
  std::vector<KernelTest> kernels;
};

Findings examine() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  Findings found{measure_product_rate(ComputeType::fp32, at::kCPU) / 1e9, default_host_budget(), free_bytes("."), files.rlim_cur,
                 attention_self_test()};
  found.no_gpu = accelerator::why_unusable().value_or("");
  found.gpus = accelerator::devices();
  if (found.no_gpu.empty()) found.kernels = kernel_self_tests(accelerator::device());
  return found;
}

std::string gpus_json(const Findings& f) {
  std::string text;
  for (const accelerator::DeviceInfo& gpu : f.gpus)
    text += fmt::format("{}{{\"name\": {}, \"compute_capability\": \"{}.{}\", \"multiprocessors\": {}, \"memory_bytes\": {}}}",
                        text.empty() ? "" : ", ", json_quote(gpu.name), gpu.major, gpu.minor, gpu.multiprocessors, gpu.total_bytes);
  return "[" + text + "]";
}

std::string kernels_json(const Findings& f) {
  std::string text;
  for (const KernelTest& t : f.kernels)
    text += fmt::format("{}{{\"name\": {}, \"passed\": {}, \"largest_error\": {}, \"tolerance\": {}}}", text.empty() ? "" : ", ",
                        json_quote(t.name), t.passed, json_number(t.largest_error), json_number(t.tolerance));
  return "[" + text + "]";
}

std::string as_json(const Findings& f) {
  const CpuInfo& cpu = cpu_info();
  return fmt::format(
      "{{\"version\": {}, \"libtorch\": {}, \"cpu\": {}, \"cpu_capability\": {}, \"native_bf16\": {}, \"physical_cores\": {}, "
      "\"threads\": {}, \"gpus\": {}, \"gpu_unusable\": {}, \"kernel_tests\": {}, \"product_gflops_fp32\": {:.1f}, \"host_budget_bytes\": "
      "{}, \"free_disk_bytes\": {}, "
      "\"open_files\": {}, \"self_test\": {{\"passed\": {}, \"largest_error\": {}, \"tolerance\": {}}}}}\n",
      json_quote(kVersion), json_quote(libtorch_version()), json_quote(cpu.model), json_quote(cpu.capability), cpu.native_bf16,
      cpu.physical_cores, compute_threads(), gpus_json(f), json_quote(f.no_gpu), kernels_json(f), f.product_gflops, f.host_budget,
      f.free_disk, f.open_files, f.self_test.passed, json_number(f.self_test.largest_error), json_number(f.self_test.tolerance));
}

std::string as_text(const Findings& f) {
  const CpuInfo& cpu = cpu_info();
  std::string text = version_text(false);
  text += fmt::format("cpu        {} ({}), {} cores, bf16 products {}\n", cpu.model, cpu.capability, cpu.physical_cores,
                      cpu.native_bf16 ? "native" : "not native: fp32 is used");
  text += fmt::format("threads    {}\n", compute_threads());
  for (const accelerator::DeviceInfo& gpu : f.gpus)
    text += fmt::format("gpu        {}, compute capability {}.{}, {}\n", gpu.name, gpu.major, gpu.minor,
                        human_bytes(static_cast<uint64_t>(gpu.total_bytes)));
  if (f.no_gpu.empty())
    text += fmt::format("attention  bf16 heads of 128: {}, fp32: {}\n", attention_variant(accelerator::device(), at::kBFloat16, 128),
                        attention_variant(accelerator::device(), at::kFloat, 128));
  else
    text += "gpu        none is used: " + f.no_gpu + "\n";
  text += fmt::format("products   {:.0f} GFLOP/s fp32\n", f.product_gflops);
  text += fmt::format("memory     {} may be used by a run\n", human_bytes(static_cast<uint64_t>(f.host_budget)));
  text += fmt::format("disk       {} free here\n", human_bytes(f.free_disk));
  text += fmt::format("files      {} may be open\n", f.open_files);
  text += fmt::format("self-test  attention {}: largest error {:.1e}, allowed {:.1e}\n", f.self_test.passed ? "passed" : "FAILED",
                      f.self_test.largest_error, f.self_test.tolerance);
  for (const KernelTest& t : f.kernels)
    text += fmt::format("kernel     {} {}: largest error {:.1e}, allowed {:.1e}\n", t.name, t.passed ? "passed" : "FAILED", t.largest_error,
                        t.tolerance);
  return text;
}

int doctor(bool json) {
  const Findings findings = examine();
  print_out(json ? as_json(findings) : as_text(findings));
  LONGLORA_CHECK(findings.self_test.passed, internal,
                 fmt::format("attention differs from its definition by {:.1e}", findings.self_test.largest_error), "self-test",
                 "report this with the output of doctor --json");
  for (const KernelTest& t : findings.kernels)
    LONGLORA_CHECK(t.passed, internal,
                   fmt::format("{} differs from the CPU by {:.1e}, allowed {:.1e}", t.name, t.largest_error, t.tolerance),
                   "kernel self-test", "use device: cpu, and report this with the output of doctor --json");
  return 0;
}

struct DoctorFlags {
  bool json = false;
  std::string rates, device = "auto";
};

/// To standard output, or to a file that appears whole.
int write_rates(const DoctorFlags& flags) {
  const ComputeDevice device = choose_device(flags.device);
  const std::string text = rates_json(measure_rates(device, resolve_compute({}, device)));
  if (flags.rates == "-")
    print_out(text);
  else
    write_file_atomic(flags.rates, text);
  return 0;
}

}  // namespace

void add_doctor(Program& p) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = add_command(p, "doctor", "versions, CPU, threads, memory, disk, and a self-test; or the machine's rates",
                                  "longlora-train doctor --json");
  CLI::Option* json = command->add_flag("--json", flags->json, "machine form");
  CLI::Option* rates =
      command
          ->add_option("--rates", flags->rates,
                       "measure for a few seconds what plan --rates predicts times from, as JSON to FILE or standard output")
          ->type_name("[FILE]")
          ->expected(0, 1)
          ->default_str("-")
          ->excludes(json);
  command->add_option("--device", flags->device, "auto, cpu or cuda: which one's rates")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->needs(rates);
  command->callback([&p, flags] { p.action = [flags] { return flags->rates.empty() ? doctor(flags->json) : write_rates(*flags); }; });
}

}  // namespace longlora::apps
