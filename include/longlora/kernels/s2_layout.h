#pragma once
// The index map of shifted sparse attention (LongLoRA, arXiv:2309.12307, section 3.2; docs/attention.md section 3): the only
// implementation of the pattern, shared by CPU, GPU and planner. The fp64 oracle of the tests must not include it.
//
//   plain heads    segments [0,g) [g,2g) ...            sh = 0
//   shifted heads  segments [0,b) [b,b+g) ...  b = g/2  sh = b
//   L(p) = D + max(0, ((p-D+sh)/g)*g - sh)              first key that query p may see (D = begin of p's document)
//   R(p) = min(E, D + ((p-D+sh)/g + 1)*g - sh)          end of p's segment            (E = end of p's document)
// Both are nondecreasing, L(p) <= p < R(p). `full` causal attention is g = 2T (b >= T).

#include <cstdint>

#if defined(__CUDACC__)
#define LONGLORA_HD __host__ __device__
#else
#define LONGLORA_HD
#endif

namespace longlora {

enum class Shift { none, half_group };

struct Segment { int64_t begin, end; };   // token positions, half-open

/// Segment that contains `position` inside one document [begin, end). `group` even, >= 2.
LONGLORA_HD constexpr Segment segment_of(int64_t position, Segment document, int64_t group, Shift shift) {
  const int64_t offset = shift == Shift::half_group ? group / 2 : 0;
  const int64_t index = (position - document.begin + offset) / group;
  const int64_t begin = index * group - offset;
  const int64_t end = document.begin + begin + group;
  return {document.begin + (begin > 0 ? begin : 0), end < document.end ? end : document.end};
}
static_assert(segment_of(0, {0, 8}, 4, Shift::half_group).end == 2);
static_assert(segment_of(7, {0, 8}, 4, Shift::half_group).begin == 6);

/// Exact number of allowed (query, key) pairs of one head in a row without inner documents: sum over segments of s (s+1) / 2.
LONGLORA_HD constexpr int64_t allowed_pairs(int64_t tokens, int64_t group, Shift shift) {
  int64_t pairs = 0;
  for (int64_t at = 0; at < tokens;) {
    const Segment s = segment_of(at, {0, tokens}, group, shift);
    const int64_t length = s.end - at;
    pairs += length * (length + 1) / 2;
    at = s.end;
  }
  return pairs;
}

}  // namespace longlora
