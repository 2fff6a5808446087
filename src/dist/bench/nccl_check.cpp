// nccl_check: all_gather and broadcast of one rank through the transport's own code, verified byte by byte, then timed; a JSON row a line.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/dist/nccl.h"

namespace longlora::dist {
namespace {

constexpr size_t kBytes = size_t{64} << 20;
constexpr int kRepetitions = 20;
constexpr int kNoGpu = 69;

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail(ErrorKind::peer, fmt::format("{}: {}", call, cudaGetErrorString(status)), "GPU 0", "look at nvidia-smi");
}

struct Device {
  cudaStream_t stream = nullptr;
  std::byte *from = nullptr, *to = nullptr;
  Device() {
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    check(cudaMalloc(reinterpret_cast<void**>(&from), kBytes), "cudaMalloc");
    check(cudaMalloc(reinterpret_cast<void**>(&to), kBytes), "cudaMalloc");
  }
  ~Device() { cudaFree(from), cudaFree(to), cudaStreamDestroy(stream); }
  void fill() {
    std::vector<std::byte> pattern(kBytes);
    for (size_t i = 0; i < kBytes; ++i) pattern[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    check(cudaMemcpy(from, pattern.data(), kBytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaMemset(to, 0, kBytes), "cudaMemset");
  }
  bool same() {
    std::vector<std::byte> a(kBytes), b(kBytes);
    check(cudaMemcpy(a.data(), from, kBytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    check(cudaMemcpy(b.data(), to, kBytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return a == b;
  }
};

template <class F>
bool row(Device& device, const char* operation, const F& call) {
  device.fill();
  std::vector<double> microseconds;
  for (int i = 0; i < kRepetitions; ++i) {
    const double begun = monotonic_seconds();
    call();
    check(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
    microseconds.push_back(1e6 * (monotonic_seconds() - begun));
  }
  std::ranges::sort(microseconds);
  const bool right = device.same();
  const std::string result = right ? fmt::format(R"("median_us": {:.3f})", microseconds[kRepetitions / 2]) : R"("failed": "wrong bytes")";
  fmt::print("{{\"op\": \"nccl_{}\", \"shape\": \"1 rank, 64 MiB\", {}}}\n", operation, result);
  return right;
}

int run() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fputs("nccl_check: there is no GPU here, or no driver; nothing was measured\n", stderr);
    return kNoGpu;
  }
  check(cudaSetDevice(0), "cudaSetDevice");
  Device device;
  const std::unique_ptr<Communicator> world = make_nccl(single(), 0, {});
  const bool gathers = row(device, "all_gather", [&] {
    world->all_gather({device.from, kBytes, Memory::device}, {device.to, kBytes, Memory::device}, device.stream);
  });
  const std::unique_ptr<Communicator> part = world->split(0, 0);
  const bool broadcasts = row(device, "broadcast", [&] {
    part->broadcast({device.from, kBytes, Memory::device}, 0, device.stream);
    check(cudaMemcpyAsync(device.to, device.from, kBytes, cudaMemcpyDeviceToDevice, device.stream), "cudaMemcpyAsync");
  });
  return gathers && broadcasts ? 0 : 1;
}

}  // namespace
}  // namespace longlora::dist

int main() { return longlora::run_guarded(longlora::dist::run); }
