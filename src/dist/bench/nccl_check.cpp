// nccl_check: all_gather, broadcast and, with several ranks, exchange through the transport's own code, verified byte by byte on every rank
// before they are timed; a JSON row a line. Several ranks: under any launcher, one GPU each, as `longlora-train launch --nproc-per-node 2 --`.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/dist/join.h"
#include "longlora/dist/launch_info.h"
#include "longlora/dist/nccl.h"

namespace longlora::dist {
namespace {

constexpr size_t kBytes = size_t{64} << 20;  // a multiple of any power of two of ranks
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

/// Rows are rank 0's; every rank checks what it received.
template <class F>
bool row(Communicator& ranks, Device& device, const char* operation, const F& call) {
  device.fill();
  std::vector<double> microseconds;
  for (int i = 0; i < kRepetitions; ++i) {
    const double begun = monotonic_seconds();
    call();
    check(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
    microseconds.push_back(1e6 * (monotonic_seconds() - begun));
  }
  std::ranges::sort(microseconds);
  int64_t wrong = device.same() ? 0 : 1;
  ranks.sum({&wrong, 1});
  const bool right = wrong == 0;
  if (ranks.rank() != 0) return right;
  const std::string result = right ? fmt::format(R"("median_us": {:.3f})", microseconds[kRepetitions / 2]) : R"("failed": "wrong bytes")";
  fmt::print("{{\"op\": \"nccl_{}\", \"shape\": \"{} rank{}, 64 MiB\", {}}}\n", operation, ranks.size(), ranks.size() > 1 ? "s" : "", result);
  return right;
}

int run() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fputs("nccl_check: there is no GPU here, or no driver; nothing was measured\n", stderr);
    return kNoGpu;
  }
  const LaunchInfo launch = detect_launch({}, process_environment(), "nccl_check");
  const int card = devices == 1 ? 0 : launch.local_rank;
  LONGLORA_CHECK(card < devices, config, fmt::format("{} ranks on this host and {} GPUs", launch.local_world_size, devices), "local rank",
                 "start as many ranks as there are GPUs");
  check(cudaSetDevice(card), "cudaSetDevice");
  Device device;
  const std::unique_ptr<Communicator> world =
      launch.world_size == 1 ? make_nccl(single(), card, {}) : join_world(launch, {.backend = Backend::nccl, .device = card});
  const size_t part_bytes = kBytes / static_cast<size_t>(world->size()), own = part_bytes * static_cast<size_t>(world->rank());
  bool good = row(*world, device, "all_gather", [&] {
    world->all_gather({device.from + own, part_bytes, Memory::device},
                      {device.to, part_bytes * static_cast<size_t>(world->size()), Memory::device}, device.stream);
  });
  const std::unique_ptr<Communicator> group = world->split(0, world->rank());
  good &= row(*world, device, "broadcast", [&] {
    const bool is_root = group->rank() == 0;
    group->broadcast({is_root ? device.from : device.to, kBytes, Memory::device}, 0, device.stream);
    if (is_root) check(cudaMemcpyAsync(device.to, device.from, kBytes, cudaMemcpyDeviceToDevice, device.stream), "cudaMemcpyAsync");
  });
  const int peer = world->rank() ^ 1;
  if (world->size() % 2 == 0)
    good &= row(*world, device, "exchange", [&] {
      world->exchange(peer, {device.from, kBytes, Memory::device}, {device.to, kBytes, Memory::device}, device.stream);
    });
  return good ? 0 : 1;
}

}  // namespace
}  // namespace longlora::dist

int main() { return longlora::run_guarded(longlora::dist::run); }
