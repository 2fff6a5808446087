#pragma once
// The state digest's sums over a tensor on a GPU (docs/determinism.md, the hash chain). CPU: StateLanes in longlora/core/hash.h.
//
//   lane k = sum_i mix(c_k * (first + i + 1) + words[i]) mod 2^64
//
// The sums are integers and free of order: every warp writes its share, whoever reads them adds.
// words   4-byte aligned, `count` of them
// Cost    one read of the words: bound by memory
// Errors  a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

/// Warps that share `count` words, each of which writes two sums: a function of the count alone.
constexpr int64_t lane_shares(int64_t count) {
  const int64_t blocks = (count + 4095) / 4096;
  return 8 * (blocks < 1 ? 1 : blocks < 1024 ? blocks : 1024);
}

/// shares[2 w], shares[2 w + 1]: the two lanes' sums of warp w < lane_shares(count). `first`: place of words[0] in the whole tensor.
Launch state_lanes(const uint32_t* words, int64_t count, uint64_t first, uint64_t* shares, Stream);

}  // namespace longlora::kernels
