// The index map against brute force from boundary lists, and what the operator refuses.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "attention_case.h"
#include "longlora/kernels/s2_layout.h"
#include "support/error_of.h"

namespace longlora::test {
namespace {

std::vector<int64_t> map_boundaries(int64_t tokens, int64_t group, Shift shift) {
  std::vector<int64_t> found{0};
  while (found.back() < tokens) found.push_back(segment_of(found.back(), {0, tokens}, group, shift).end);
  return found;
}

TEST(S2Layout, BoundariesAreThoseOfTheDefinition) {
  using List = std::vector<int64_t>;
  const struct {
    int64_t tokens, group;
    List plain, shifted;
  } rows[] = {{8192, 2048, {0, 2048, 4096, 6144, 8192}, {0, 1024, 3072, 5120, 7168, 8192}},
              {4274, 2048, {0, 2048, 4096, 4274}, {0, 1024, 3072, 4274}},
              {9243, 8192, {0, 8192, 9243}, {0, 4096, 9243}},
              {12289, 8192, {0, 8192, 12289}, {0, 4096, 12288, 12289}},
              {4097, 8192, {0, 4097}, {0, 4096, 4097}},
              {3000, 8192, {0, 3000}, {0, 3000}},
              {8, 1024, {0, 8}, {0, 8}}};
  for (const auto& row : rows) {
    EXPECT_EQ(map_boundaries(row.tokens, row.group, Shift::none), row.plain) << row.tokens;
    EXPECT_EQ(map_boundaries(row.tokens, row.group, Shift::half_group), row.shifted) << row.tokens;
  }
}

/// Every claim of the header for one random row: L, R, ranges of both passes, both tests, alignment, pairs.
void check_map(std::mt19937& generator) {
  const auto below = [&](int64_t n) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(n)); };
  const int64_t T = 1 + below(70), group = 2 * (1 + below(16)), tile_rows = 1 + below(20), tile_keys = 1 + below(20);
  const bool shifted = below(2) == 1;
  const Shift shift = shifted ? Shift::half_group : Shift::none;
  std::vector<int64_t> starts{0};
  const int64_t spread = below(3);
  for (int64_t t = 1; t < T; ++t) {
    if (spread > 0 && below(5 * spread) == 0) starts.push_back(t);
  }
  const std::vector<char> allowed = oracle::mask({"s2", T, group, shifted ? 0 : 1, {starts}}, 0, 0);
  const auto document = [&](int64_t p) {
    Segment d{0, T};
    for (size_t i = 0; i < starts.size(); ++i) {
      if (starts[i] <= p) d = {starts[i], i + 1 < starts.size() ? starts[i + 1] : T};
    }
    return d;
  };
  std::vector<int64_t> L, R;
  for (int64_t p = 0; p < T; ++p) {
    L.push_back(visible_from(p, document(p), group, shift));
    R.push_back(segment_end(p, document(p), group, shift));
  }
  int64_t pairs = 0;
  for (int64_t p = 0; p < T; ++p) {
    for (int64_t u = 0; u < T; ++u) {
      ASSERT_EQ(allowed[p * T + u] != 0, L[p] <= u && u <= p) << T << ' ' << group << ' ' << p << ' ' << u;
      ASSERT_EQ(allowed[p * T + u] != 0, u <= p && p < R[u]);
      pairs += allowed[p * T + u];
    }
  }
  if (starts.size() == 1) ASSERT_EQ(pairs, allowed_pairs(T, group, shift));
  std::set<std::pair<int64_t, int64_t>> expected, forward, backward;
  bool straddles = false;
  const int64_t num_m = (T + tile_rows - 1) / tile_rows, num_n = (T + tile_keys - 1) / tile_keys;
  for (int64_t m = 0; m < num_m; ++m) {
    const int64_t begin = m * tile_rows, end = std::min(begin + tile_rows, T);
    const TileRange range = key_tiles(L[begin], end, tile_keys);
    for (int64_t n = range.begin; n < range.end; ++n) {
      forward.insert({m, n});
      bool left = false, diagonal = false;
      for (int64_t p = begin; p < end; ++p) {
        for (int64_t u = n * tile_keys; u < (n + 1) * tile_keys; ++u) {
          left |= u < L[p];
          diagonal |= u > begin;
        }
      }
      ASSERT_EQ(left, needs_left_test(L[end - 1], n, tile_keys));
      ASSERT_EQ(diagonal, needs_diagonal_test(m, n, tile_rows, tile_keys));
      straddles |= left;
    }
  }
  for (int64_t n = 0; n < num_n; ++n) {
    const int64_t begin = n * tile_keys, end = std::min(begin + tile_keys, T);
    const TileRange range = query_tiles(begin, R[end - 1], tile_rows);
    for (int64_t m = range.begin; m < range.end; ++m) backward.insert({m, n});
  }
  for (int64_t p = 0; p < T; ++p) {
    for (int64_t u = 0; u < T; ++u) {
      if (allowed[p * T + u]) expected.insert({p / tile_rows, u / tile_keys});
    }
  }
  ASSERT_EQ(forward, expected);
  ASSERT_EQ(backward, expected);
  if (starts.size() == 1 && is_aligned(group, tile_rows, tile_keys)) ASSERT_FALSE(straddles);
}

TEST(S2Layout, MapEqualsBruteForce) {
  std::mt19937 generator(20240917);
  for (int i = 0; i < 4000 && !HasFatalFailure(); ++i) check_map(generator);
}

TEST(S2Layout, KvHeadsOfAPatternMayOverlap) {
  for (int64_t K = 1; K <= 5; ++K) {
    for (int64_t r = 1; r <= 4; ++r) {
      for (int64_t num_plain = 0; num_plain <= K * r; ++num_plain) {
        std::set<int64_t> plain, shifted;
        for (int64_t h = 0; h < K * r; ++h) (h < num_plain ? plain : shifted).insert(h / r);
        const auto as_set = [](HeadRange range) {
          std::set<int64_t> heads;
          for (int64_t j = range.begin; j < range.end; ++j) heads.insert(j);
          return heads;
        };
        EXPECT_EQ(as_set(kv_heads_of(Shift::none, K * r, K, num_plain)), plain);
        EXPECT_EQ(as_set(kv_heads_of(Shift::half_group, K * r, K, num_plain)), shifted);
      }
    }
  }
}

TEST(S2Layout, PairsFollowTheClosedRatio) {  // (1/n)(1 - 1/(4n)) of full attention, half the heads shifted
  for (const auto [n, ratio] : {std::pair{2, 0.4375}, {4, 0.234375}, {8, 0.12109375}}) {
    const int64_t group = 4096, T = n * group;
    const double both = static_cast<double>(allowed_pairs(T, group, Shift::none) + allowed_pairs(T, group, Shift::half_group));
    EXPECT_NEAR(both / (static_cast<double>(T) * static_cast<double>(T + 1)), ratio, 2e-4);
  }
}

TEST(S2Layout, OddGroupIsRefusedWithBothNeighbours) {
  EXPECT_EQ(error_of([] {
              check_layout({AttentionKind::s2, 4004, 1001, 1}, 2, 2);
            }),
            "got 1001, must be even (attention.group_size); use 1000 or 1002");
  EXPECT_EQ(kind_of([] { check_layout({AttentionKind::s2, 4004, 1001, 1}, 2, 2); }), ErrorKind::config);
  EXPECT_EQ(error_of([] {
              check_layout({AttentionKind::s2, 64, 0, 1}, 2, 2);
            }),
            "got 0, must be at least 2 (attention.group_size); use an even number of tokens");
  EXPECT_EQ(error_of([] { check_layout({AttentionKind::full, 64, 7, 1}, 2, 2); }), "");  // full ignores the group
}

TEST(S2Layout, DocumentListsAreRefusedByRowAndValue) {
  const auto refusal = [](std::vector<std::vector<int64_t>> starts) {
    return error_of([&] { check_layout({AttentionKind::s2, 10, 4, 1, std::move(starts)}, 2, 2); });
  };
  EXPECT_EQ(refusal({{0, 3}, {0, 9}}), "");
  EXPECT_EQ(refusal({{0}, {1, 3}}),
            "first document starts at 1, must be 0 (document starts of row 1); let the first document begin with the row");
  EXPECT_EQ(refusal({{0, 5, 5}}), "start 5 follows 5 (document starts of row 0); list the starts in strictly increasing order");
  EXPECT_EQ(refusal({{0, 10}}), "start 10 is not below the row length 10 (document starts of row 0); list only starts inside the row");
  EXPECT_EQ(kind_of([] { check_layout({AttentionKind::s2, 10, 4, 1, {{1}}}, 2, 2); }), ErrorKind::data);
  AttentionCase c{3, 10, 2, 2, 8, 4, 1};
  c.documents = {{0}, {0, 4}};
  EXPECT_EQ(error_of([&] { run_attention(c, AttentionInputs(c)); }),
            "document starts of 2 rows for a batch of 3 (document starts); give one list a row");
}

TEST(S2Layout, WrapNeedsWholeGroupsOneDocumentAndNoWindow) {
  EXPECT_EQ(error_of([] {
              check_layout({AttentionKind::s2_wrap, 10, 4, 1}, 2, 2);
            }),
            "s2_wrap needs a row length that is a multiple of the group, got 10 tokens and group 4 (attention.kind); "
            "use attention.kind: s2, or change the sequence length or the group");
  EXPECT_EQ(error_of([] {
              check_layout({AttentionKind::s2_wrap, 8, 4, 1, {{0, 4}}}, 2, 2);
            }),
            "s2_wrap cannot separate documents in a row (attention.kind); use attention.kind: s2");
  AttentionCase c{1, 8, 2, 2, 8, 4, 1, AttentionKind::s2_wrap};
  const AttentionInputs in(c);
  EXPECT_EQ(kind_of([&] { run_attention(c.layout(), in.q.narrow(1, 0, 4), in.k, in.v, in.d_o.narrow(1, 0, 4)); }), ErrorKind::config);
}

TEST(S2Layout, HeadsMustBeAMultipleOfKvHeads) {
  EXPECT_EQ(kind_of([] { check_layout({AttentionKind::full, 8}, 5, 2); }), ErrorKind::config);
}

TEST(S2Layout, WindowsThatLackVisibleKeysAreABug) {
  AttentionCase c{1, 64, 2, 2, 8, 32, 1};
  const AttentionInputs in(c);
  AttentionLayout window = c.layout();
  window.q_begin = 32;
  window.k_begin = 24;  // shifted queries from 32 on see keys from 16 on
  EXPECT_EQ(kind_of([&] {
              run_attention(window, in.q.narrow(1, 32, 32), in.k.narrow(1, 24, 40), in.v.narrow(1, 24, 40), in.d_o.narrow(1, 32, 32));
            }),
            ErrorKind::internal);
}

}  // namespace
}  // namespace longlora::test
