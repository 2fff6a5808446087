#pragma once
// What ranks hold besides their tensors while they add gradients and share weights: the reducer sends pieces of at most so many elements,
// the planner counts them.
#include <algorithm>
#include <cstdint>

namespace longlora {

inline constexpr int64_t kPieceElements = int64_t{16} << 20;  // 64 MiB of fp32

/// Most bytes of messages at a time. Halving: a half of the gradient out and another in. Gathering: a piece from every rank beside the own
/// one; `share`: elements that one rank owns, `element_bytes`: of what is gathered.
inline int64_t halving_bytes(int64_t trainable) { return 2 * 4 * std::min(kPieceElements, (trainable + 1) / 2); }
inline int64_t gather_bytes(int64_t share, int64_t ranks, int64_t element_bytes) {
  return (ranks + 1) * element_bytes * std::min(kPieceElements, share);
}

inline constexpr int64_t kSequenceSumElements = int64_t{4} << 20;  // of a piece of gradients that ranks of one sequence add: 16 MiB

/// A piece of the gradient and what other ranks sent of it.
inline int64_t sequence_exchange_bytes(int64_t trainable, int64_t sequence_ranks) {
  if (sequence_ranks == 1) return 0;
  return 2 * 4 * ((std::min(trainable, kSequenceSumElements) + sequence_ranks - 1) / sequence_ranks * sequence_ranks);
}

}  // namespace longlora
