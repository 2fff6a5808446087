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

struct Segment {
  int64_t begin, end;
};  // token positions, half-open

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

/// First key that the query at `position` may see (L), and the end of the segment, from which on a query no longer sees it as a key (R).
LONGLORA_HD constexpr int64_t visible_from(int64_t position, Segment document, int64_t group, Shift shift) {
  return segment_of(position, document, group, shift).begin;
}
LONGLORA_HD constexpr int64_t segment_end(int64_t position, Segment document, int64_t group, Shift shift) {
  return segment_of(position, document, group, shift).end;
}

// Tiles lie on the absolute grid of the row: query tile m holds rows [m*BM, (m+1)*BM), key tile n keys [n*BN, (n+1)*BN), clipped to T.
// The ranges below are exact: every tile in them holds an allowed pair, no other tile does.

struct TileRange {
  int64_t begin, end;
};  // tile indices, half-open

/// Key tiles of the query rows [row_begin, row_end), given L(row_begin).
LONGLORA_HD constexpr TileRange key_tiles(int64_t visible_from_first_row, int64_t row_end, int64_t tile_keys) {
  return {visible_from_first_row / tile_keys, (row_end + tile_keys - 1) / tile_keys};
}

/// Query tiles of the keys [key_begin, key_end), given R(key_end - 1).
LONGLORA_HD constexpr TileRange query_tiles(int64_t key_begin, int64_t segment_end_of_last_key, int64_t tile_rows) {
  return {key_begin / tile_rows, (segment_end_of_last_key + tile_rows - 1) / tile_rows};
}

/// Does key tile n hold keys left of what some row of the query tile may see? Given L of the query tile's last row.
LONGLORA_HD constexpr bool needs_left_test(int64_t visible_from_last_row, int64_t n, int64_t tile_keys) {
  return visible_from_last_row > n * tile_keys;
}

/// Does tile (m, n) hold keys later than some of its queries? On unclipped tile ends, so that keys past T are masked as well.
LONGLORA_HD constexpr bool needs_diagonal_test(int64_t m, int64_t n, int64_t tile_rows, int64_t tile_keys) {
  return (n + 1) * tile_keys - 1 > m * tile_rows;
}

/// No tile of a row without inner documents needs the left test.
LONGLORA_HD constexpr bool is_aligned(int64_t group, int64_t tile_rows, int64_t tile_keys) {
  return (group / 2) % tile_rows == 0 && (group / 2) % tile_keys == 0;
}

/// s2_wrap (T % g == 0): shifted queries that also see, and keys that are also seen, without a diagonal. A leak by design.
LONGLORA_HD constexpr Segment wrap_queries(int64_t group) { return {0, group / 2}; }
LONGLORA_HD constexpr Segment wrap_keys(int64_t tokens, int64_t group) { return {tokens - group / 2, tokens}; }

/// KV heads [begin, end) that serve at least one plain, or at least one shifted query head; one KV head may serve both.
struct HeadRange {
  int64_t begin, end;
  LONGLORA_HD constexpr bool empty() const { return begin == end; }
};
LONGLORA_HD constexpr HeadRange kv_heads_of(Shift shift, int64_t num_heads, int64_t num_kv_heads, int64_t num_plain) {
  const int64_t heads_per_kv = num_heads / num_kv_heads;
  if (shift == Shift::none) return {0, (num_plain + heads_per_kv - 1) / heads_per_kv};
  return {num_plain < num_heads ? num_plain / heads_per_kv : num_kv_heads, num_kv_heads};
}
static_assert(kv_heads_of(Shift::none, 9, 3, 4).end == 2 && kv_heads_of(Shift::half_group, 9, 3, 4).begin == 1);

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
