// Which keys a rank of a sequence group holds and fetches, against the definition of the pattern from its boundary lists.
#include "longlora/config/sequence_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "support/error_of.h"

namespace longlora::test {
namespace {

/// Boundaries of plain or shifted segments: {0, g, 2g, ..} or {0, b, b + g, ..} below T, and T.
std::vector<int64_t> boundaries(int64_t tokens, int64_t group, bool shifted) {
  std::vector<int64_t> list = {0};
  for (int64_t at = shifted ? group / 2 : group; at < tokens; at += group) list.push_back(at);
  list.push_back(tokens);
  return list;
}

/// Keys that the queries [begin, end) of one kind of heads read.
std::set<int64_t> needed_keys(int64_t tokens, int64_t group, bool shifted, int64_t begin, int64_t end) {
  std::set<int64_t> keys;
  const std::vector<int64_t> list = boundaries(tokens, group, shifted);
  for (int64_t query = begin; query < end; ++query) {
    const int64_t segment = *(std::upper_bound(list.begin(), list.end(), query) - 1);
    for (int64_t key = segment; key <= query; ++key) keys.insert(key);
  }
  return keys;
}

std::set<int64_t> held_keys(const SequencePart& part, int64_t half, bool shifted) {
  const bool fetches = part.halo == (shifted ? HaloHeads::shifted : HaloHeads::plain);
  std::set<int64_t> keys;
  for (int64_t key = part.begin - (fetches ? half : 0); key < part.end; ++key) keys.insert(key);
  return keys;
}

TEST(SequenceParts, OwnAndHaloKeysAreTheNeededOnesExactly) {
  int64_t parts_seen = 0;
  for (int64_t half_groups = 1; half_groups <= 64; ++half_groups) {
    for (const auto& [half, ragged] : {std::pair<int64_t, int64_t>{1, 0}, {3, 0}, {3, 2}, {4, 1}}) {
      const int64_t group = 2 * half, tokens = (half_groups - (ragged > 0 ? 1 : 0)) * half + ragged;
      ASSERT_EQ(half_groups_of(tokens, group), half_groups);
      for (int64_t parts = 1; parts <= half_groups; ++parts) {
        int64_t covered = 0;
        HaloHeads announced = HaloHeads::none;
        for (int64_t index = 0; index < parts; ++index, ++parts_seen) {
          const SequencePart part = sequence_part(tokens, group, parts, index);
          ASSERT_EQ(part.begin, covered);
          ASSERT_LT(part.begin, part.end);
          ASSERT_EQ(part.begin % half, 0);
          ASSERT_EQ(part.halo, announced) << "half-groups " << half_groups << " parts " << parts << " index " << index;
          for (const bool shifted : {false, true})
            ASSERT_EQ(needed_keys(tokens, group, shifted, part.begin, part.end), held_keys(part, half, shifted))
                << "tokens " << tokens << " group " << group << " parts " << parts << " index " << index << " shifted " << shifted;
          covered = part.end;
          announced = part.next;
        }
        ASSERT_EQ(covered, tokens);
        ASSERT_EQ(announced, HaloHeads::none);
      }
    }
  }
  EXPECT_GT(parts_seen, 100000);
}

TEST(SequenceParts, AreBalancedToOneHalfGroup) {
  for (int64_t parts = 1; parts <= 8; ++parts) {
    int64_t least = 1 << 20, most = 0;
    for (int64_t index = 0; index < parts; ++index) {
      const int64_t tokens = sequence_part(29 * 4, 8, parts, index).tokens();
      least = std::min(least, tokens), most = std::max(most, tokens);
    }
    EXPECT_LE(most - least, 4) << parts;
  }
}

TEST(SequenceParts, MorePartsThanHalfGroupsAreRefusedWithTheLargestNumber) {
  for (const auto& [tokens, group, largest] : {std::tuple<int64_t, int64_t, int64_t>{100, 50, 4}, {101, 50, 5}, {10, 64, 1}}) {
    const Error error = *thrown_by([&] { sequence_part(tokens, group, largest + 1, 0); });
    EXPECT_EQ(error.kind, ErrorKind::config);
    EXPECT_NE(error.what_to_do.find("at most " + std::to_string(largest)), std::string::npos) << error.what();
    EXPECT_EQ(sequence_part(tokens, group, largest, largest - 1).end, tokens);
  }
}

}  // namespace
}  // namespace longlora::test
