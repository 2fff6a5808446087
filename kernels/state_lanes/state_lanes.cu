// Two 64-bit sums over 32-bit words, in integers: order does not matter, so neither do grid and schedule.
#include "common/arguments.h"
#include "longlora/kernels/state_lanes.h"

namespace longlora::kernels {
namespace {

LONGLORA_DEVICE uint64_t mix(uint64_t z) {  // the finaliser of splitmix64, as in src/core/hash.cpp
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <bool kAligned>
struct StateLanes {
  struct Params {
    const uint32_t* words;
    uint64_t* shares;
    int64_t count;
    uint64_t first;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int64_t kWarps = kThreads / device::kWarp;

  LONGLORA_DEVICE static void run(const Params& p) {
    uint64_t sum[2] = {0, 0};
    const int64_t stride = int64_t{device::num_blocks()} * kThreads * 4;
    for (int64_t i = (int64_t{device::block_index()} * kThreads + device::thread_index()) * 4; i < p.count; i += stride) {
      if (kAligned && i + 4 <= p.count) {
        const device::Bits128 four = device::load_128_streamed(p.words + i);
        LONGLORA_UNROLL
        for (int k = 0; k < 4; ++k) add(p.first + static_cast<uint64_t>(i + k), four.word[k], sum);
      } else {
        for (int64_t k = i; k < i + 4 && k < p.count; ++k) add(p.first + static_cast<uint64_t>(k), device::load(p.words + k), sum);
      }
    }
    const int64_t warp = int64_t{device::block_index()} * kWarps + device::warp_index();
    LONGLORA_UNROLL
    for (int k = 0; k < 2; ++k) {
      const uint64_t total = device::warp_sum(sum[k]);
      if (device::lane_index() == 0) device::store(p.shares + 2 * warp + k, total);
    }
  }

  LONGLORA_DEVICE static void add(uint64_t index, uint64_t word, uint64_t (&sum)[2]) {
    const uint64_t place = index + 1;
    sum[0] += mix(0x9e3779b97f4a7c15u * place + word);  // kLaneConstants
    sum[1] += mix(0xd1342543de82ef95u * place + word);
  }
};

}  // namespace

Launch state_lanes(const uint32_t* words, int64_t count, uint64_t first, uint64_t* shares, Stream stream) {
  const Arguments a = Arguments().size("count", count).pointer("words", words, 4).pointer("shares", shares, 8);
  if (!a.ok()) return a.answer;
  const int64_t blocks = lane_shares(count) / StateLanes<true>::kWarps;
  if (on_16_bytes(words)) return device::launch<StateLanes<true>>(blocks, 0, {words, shares, count, first}, stream);
  return device::launch<StateLanes<false>>(blocks, 0, {words, shares, count, first}, stream);
}

}  // namespace longlora::kernels
