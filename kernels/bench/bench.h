#pragma once
// What the programs that time kernels share: device memory, random inputs, the clock, and one JSON line a result. They need a driver and
// nothing else (the CUDA runtime is linked in). scripts/gpu_check.sh runs them and keeps the lines.
//
// Rules: nothing is timed before its result was checked; inputs are normally distributed (zeros make a chip faster); the L2 cache is
// overwritten before every repetition; CUDA events around each; median, p10 and p90 of at least 20 repetitions, or of half a second.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "device/vocabulary.h"

namespace longlora::bench {

using kernels::ElementType;
using kernels::Launch;

[[noreturn]] inline void stop(const std::string& sentence) {
  std::fprintf(stderr, "bench: %s\n", sentence.c_str());
  std::exit(1);
}
inline void require(cudaError_t e, const char* what) {
  if (e != cudaSuccess) stop(std::string(what) + ": " + cudaGetErrorString(e));
}
inline void require(Launch l, const char* what) {
  if (!l.ok()) stop(std::string(what) + ": " + l.argument + " " + l.problem);
}

class Buffer {
 public:
  explicit Buffer(int64_t bytes) : bytes_(bytes) { require(cudaMalloc(&data_, static_cast<size_t>(bytes)), "device memory"); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }
  template <class T = void>
  T* at(int64_t byte = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + byte);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

template <class T>
std::vector<T> read(const void* from, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  require(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost), "copy to the host");
  return values;
}
template <class T>
void write(void* to, const std::vector<T>& values) {
  require(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
}

inline double from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
/// `count` values of `type` (fp32 or bf16) as doubles.
inline std::vector<double> read_values(const void* from, int64_t count, ElementType type) {
  std::vector<double> values(static_cast<size_t>(count));
  if (type == ElementType::fp32) {
    const auto raw = read<float>(from, count);
    std::copy(raw.begin(), raw.end(), values.begin());
  } else {
    const auto raw = read<uint16_t>(from, count);
    std::transform(raw.begin(), raw.end(), values.begin(), from_bf16);
  }
  return values;
}

/// Normal numbers times `deviation`, from a hash of (seed, index).
template <class E>
struct FillNormal {
  struct Params {
    E* out;
    int64_t count;
    uint64_t seed;
    float deviation;
  };
  static constexpr int kThreads = 256, kMinBlocks = 4;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t step = int64_t{device::num_blocks()} * kThreads;
    for (int64_t i = int64_t{device::block_index()} * kThreads + device::thread_index(); i < p.count; i += step) {
      uint64_t x = (p.seed << 40) + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull;  // splitmix64
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
      x ^= x >> 31;
      const float uniform = (static_cast<float>(x >> 41) + 0.5f) * (1.0f / 8388608.0f);
      device::store(p.out + i, device::from_float<E>(normcdfinvf(uniform) * p.deviation));
    }
  }
};
inline void fill_normal(void* out, int64_t count, ElementType type, uint64_t seed, float deviation = 1) {
  if (type == ElementType::fp32) {
    require(device::launch<FillNormal<float>>(1024, 0, {static_cast<float*>(out), count, seed, deviation}, nullptr), "fill");
  } else {
    require(device::launch<FillNormal<device::bf16>>(1024, 0, {static_cast<device::bf16*>(out), count, seed, deviation}, nullptr), "fill");
  }
}

struct Times {
  double median_us = 0, p10_us = 0, p90_us = 0;
  int repetitions = 0;
};

class Clock {
 public:
  Clock() : flush_(256 << 20) {
    require(cudaEventCreate(&begin_), "event");
    require(cudaEventCreate(&end_), "event");
  }
  Times time(const std::function<void()>& work) {
    for (int i = 0; i < 3; ++i) once(work);
    std::vector<double> us;
    double total = 0;
    while (us.size() < 20 && (total < 0.5e6 || us.size() < 3)) us.push_back(once(work)), total += us.back();
    std::sort(us.begin(), us.end());
    const auto at = [&](double part) { return us[static_cast<size_t>(part * static_cast<double>(us.size() - 1) + 0.5)]; };
    return {at(0.5), at(0.1), at(0.9), static_cast<int>(us.size())};
  }

 private:
  double once(const std::function<void()>& work) {
    require(cudaMemsetAsync(flush_.at(), 0, static_cast<size_t>(flush_.bytes()), nullptr), "flush");  // several times any L2 cache
    require(cudaEventRecord(begin_, nullptr), "event");
    work();
    require(cudaEventRecord(end_, nullptr), "event");
    require(cudaEventSynchronize(end_), "timed kernel");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin_, end_), "event");
    return 1e3 * static_cast<double>(ms);
  }
  Buffer flush_;
  cudaEvent_t begin_{}, end_{};
};

/// One result as a line of JSON. `unit` is tflops or gbs, `work` FLOPs or bytes of one repetition.
inline void print_row(const char* op, const std::string& shape, const char* variant, const Times& t, const char* unit, double work) {
  const double rate = work / t.median_us * (std::strcmp(unit, "tflops") == 0 ? 1e-6 : 1e-3);
  std::printf(
      "{\"op\": \"%s\", \"shape\": \"%s\", \"variant\": \"%s\", \"deterministic\": true, \"baseline\": false, \"repetitions\": %d, "
      "\"median_us\": %.2f, \"p10_us\": %.2f, \"p90_us\": %.2f, \"%s\": %.2f}\n",
      op, shape.c_str(), variant, t.repetitions, t.median_us, t.p10_us, t.p90_us, unit, rate);
  std::fflush(stdout);
}

/// Refuses to time: prints the reason as a row and remembers that the program must fail.
inline bool& anything_failed() {
  static bool failed = false;
  return failed;
}
inline void print_failure(const char* op, const std::string& shape, const std::string& reason) {
  std::printf("{\"op\": \"%s\", \"shape\": \"%s\", \"failed\": \"%s\"}\n", op, shape.c_str(), reason.c_str());
  std::fflush(stdout);
  anything_failed() = true;
}

/// ||x - reference|| / ||reference||; NaN counts as infinitely wrong.
inline double relative_error(const std::vector<double>& x, const std::vector<double>& reference) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    difference += (x[i] - reference[i]) * (x[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  const double error = std::sqrt(difference / std::max(norm, 1e-300));
  return error == error ? error : 1e300;
}

}  // namespace longlora::bench
